"""The main job, as the three commands do it: songs, shards, an adapter, a band."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer
from safetensors.torch import load_file

import infer.cli
import prep.cli
import train.cli
from common.audio.wave import read_audio
from common.command import run
from common.music.notation import read_lead_sheet, write_lead_sheet
from models.adapters.adapter import read_card
from models.adapters.lora import LORA_FILE
from models.loading.checkpoint import TINY

pytestmark = pytest.mark.usefixtures("few_clips", "few_rounds")


def do(app: typer.Typer, *arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(app, [str(argument) for argument in arguments])
    assert stopped.value.code == 0


def train_adapter(shards: Path, runs: Path, mode: str, *settings: str, checkpoint: Path | str = "tiny") -> Path:
    """An adapter after two steps, in `runs`."""
    chosen = [f'logger_dir="{runs.as_posix()}"', "max_steps=2", *settings]
    flags = [flag for setting in chosen for flag in ("--set", setting)]
    do(train.cli.app, "run", "--config", f"tiny_{mode}", "--shards", shards, "--checkpoint-dir", checkpoint, *flags)
    (adapter,) = runs.glob(f"tiny_{mode}/version_0/checkpoints/*step=2_lora")
    return adapter


def check_sound(path: Path, frames: int) -> None:
    audio = read_audio(path)
    assert audio.rate_hz == 48_000
    assert audio.samples.shape == (2, frames)
    assert np.isfinite(audio.samples).all()
    assert np.abs(audio.samples).max() > 1e-3


@pytest.mark.parametrize(("form", "mode"), [("stems", "image2image"), ("songs", "controlnet")])
def test_songs_become_a_band(tmp_path, form, mode):
    """Given stems, and full songs that are separated first; from a vocal file, and from the shards."""
    raw, shards, out = tmp_path / "raw", tmp_path / "shards", tmp_path / "out"
    do(prep.cli.app, "demo-songs", raw, "--songs", 3, "--seconds", 3, "--seed", 5, "--form", form)
    do(prep.cli.app, "build-shards", raw, shards, "--checkpoint-dir", "tiny", "--workers", 1)
    do(prep.cli.app, "verify", shards)
    adapter = train_adapter(shards, tmp_path / "runs", mode)
    assert read_card(adapter).lora_weight == 1.0
    do(prep.cli.app, "demo-songs", tmp_path / "new", "--songs", 1, "--seconds", 3.3, "--seed", 900_000)
    vocal = tmp_path / "new" / "song-900000_vocal.flac"
    flags = ("--adapter", adapter, "--infer-steps", 2, "--output-dir", out)
    do(infer.cli.app, "generate", "--vocal", vocal, *flags)
    do(infer.cli.app, "generate", "--shards", shards, "--key", "song-000005", *flags)
    sung = soundfile.info(vocal)
    for kind in ("accompaniment", "mix"):
        check_sound(out / f"song-900000_{kind}.wav", round(sung.frames * 48_000 / sung.samplerate))
        assert (out / f"song-000005_{kind}.wav").is_file()


def test_a_band_follows_a_lead_sheet_that_somebody_edits(tmp_path):
    """Songs with lead sheets, an adapter that takes them, a band by the sheet of the shards and by an edited one."""
    raw, shards, out = tmp_path / "raw", tmp_path / "shards", tmp_path / "out"
    do(prep.cli.app, "demo-songs", raw, "--songs", 3, "--seconds", 3, "--seed", 5, "--lead-sheets")
    do(prep.cli.app, "build-shards", raw, shards, "--checkpoint-dir", "tiny", "--workers", 1)
    on = ("accompaniment.lead_sheet=true", "learning_rate=0.1", "warmup_steps=0")
    adapter = train_adapter(shards, tmp_path / "runs", "image2image", *on)
    flags = ("--shards", shards, "--key", "song-000006", "--adapter", adapter, "--infer-steps", 2)
    do(infer.cli.app, "generate", *flags, "--output-dir", out)
    sheet = out / "song-000006_lead_sheet.txt"
    assert sheet.read_text() == (raw / "song-000006_lead_sheet.txt").read_text()
    edited = tmp_path / "edited.txt"
    edited.write_text(write_lead_sheet(read_lead_sheet(sheet.read_text()).shifted(2)))
    do(infer.cli.app, "generate", *flags, "--lead-sheet", edited, "--output-dir", out)
    assert (out / "song-000006_2_lead_sheet.txt").read_text() == edited.read_text()
    bands = [(out / f"song-000006{number}_accompaniment.wav").read_bytes() for number in ("", "_2")]
    assert bands[0] != bands[1]


def test_training_opens_the_transformer_alone_and_can_make_mixes(tmp_path):
    """From a checkpoint folder without codec, vocoder and text encoder; the adapter's band is a whole mix."""
    raw, shards, base = tmp_path / "raw", tmp_path / "shards", tmp_path / "base"
    do(prep.cli.app, "demo-songs", raw, "--songs", 3, "--seconds", 3, "--seed", 5)
    do(prep.cli.app, "build-shards", raw, shards, "--checkpoint-dir", "tiny", "--workers", 1)
    shutil.copytree(TINY / "ace_step_transformer", base / "ace_step_transformer")
    adapter = train_adapter(shards, tmp_path / "runs", "image2image", "accompaniment.output_type=mix", checkpoint=base)
    do(
        infer.cli.app, "generate", "--shards", shards, "--key", "song-000006", "--adapter", adapter,
        "--infer-steps", 2, "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["song-000006.json", "song-000006_mix.wav"]
    check_sound(tmp_path / "out" / "song-000006_mix.wav", 3 * 48_000)


def test_features_of_the_songs_reach_training(tmp_path, ssl_networks, capsys):
    raw, shards = tmp_path / "raw", tmp_path / "shards"
    do(prep.cli.app, "demo-songs", raw, "--songs", 3, "--seconds", 3, "--seed", 5)
    do(
        prep.cli.app,
        "build-shards",
        raw,
        shards,
        "--checkpoint-dir",
        "tiny",
        "--workers",
        1,
        "--ssl",
        "mert,mhubert",
        "--ssl-dir",
        ssl_networks,
    )
    capsys.readouterr()
    adapters = [
        train_adapter(shards, tmp_path / name, "image2image", f"ssl_coeff={coeff}")
        for name, coeff in (("with", 1.0), ("without", 0.0))
    ]
    with_features, without = (load_file(adapter / LORA_FILE) for adapter in adapters)
    assert any(not torch.equal(weight, without[name]) for name, weight in with_features.items())
    assert "no SSL features" not in capsys.readouterr().err
