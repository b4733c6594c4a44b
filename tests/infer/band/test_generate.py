import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from common.audio.wave import peak_dbfs, read_audio, write_audio
from common.canonical import sha256_of_file
from common.command import run
from common.errors import UserError
from infer.audio.mixdown import MixdownSettings
from infer.audio.reference import BlendSettings, ReferenceRecord
from infer.band.generate import GeneratedFiles, generate
from infer.band.session import Session
from infer.cli import app
from infer.evaluate.items import read_items
from infer.request.record import GenerationRecord, StyleRecord
from infer.request.request import GenerationRequest
from models.adapters.adapter import base_of, read_card
from models.flow.sampler import SamplerSettings
from models.loading.checkpoint import TINY, part_hash
from shards.fingerprint import Fingerprint
from shards.reader import read_song
from shards.writer import ShardWriter


def outcome(capsys, *arguments):
    """Exit code, stdout and stderr of `infer ...`."""
    with pytest.raises(SystemExit) as stopped:
        run(app, [str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


SESSION = Session()


def play(request: GenerationRequest) -> GeneratedFiles:
    """In one step, unless others are asked for, on networks that stay open; test_session.py: they change no byte."""
    return generate(replace(request, infer_steps=request.infer_steps or 1), SESSION)


@pytest.fixture
def vocal_file(brief_vocal_file) -> Path:
    return brief_vocal_file


def read_record(made: GeneratedFiles) -> GenerationRecord:
    return GenerationRecord(**json.loads(made.record.read_text()))


def test_a_vocal_file_becomes_a_band_a_mix_and_a_record(tmp_path, vocal_file, adapter):
    out = tmp_path / "out"
    made = generate(
        GenerationRequest(adapters=(adapter,), vocal=vocal_file, prompt="piano,drums", output_dir=out, device="cpu")
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "ballad.json", "ballad_accompaniment.wav", "ballad_mix.wav"
    ]  # fmt: skip
    for path in (*made.accompaniments, *made.mixes):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames) == (48_000, 2, 38_400)
    band, mix = read_audio(made.accompaniments[0]).samples, read_audio(made.mixes[0]).samples
    assert np.isfinite(band).all()
    assert band.any()
    assert peak_dbfs(mix) <= -0.99
    record = read_record(made)
    assert (record.key, record.prompt, record.lyrics) == ("ballad", "piano, drums", "[instrumental]")
    assert (record.settings.sampler.steps, record.settings.ref_strength, record.settings.seed) == (4, 0.6, 0)
    assert (record.rate_hz, record.samples, record.device, record.dtype) == (48_000, 38_400, "cpu", "float32")
    assert record.vocal.file == vocal_file.as_posix()
    assert record.adapters[0].folder == adapter.as_posix()


def test_the_mix_holds_the_vocal_at_its_training_level(tmp_path, vocal_file, adapter):
    made = play(GenerationRequest(adapters=(adapter,), vocal=vocal_file, output_dir=tmp_path / "out", device="cpu"))
    band, mix = (read_audio(path).samples for path in (*made.accompaniments, *made.mixes))
    vocal = read_audio(vocal_file).samples
    parts = np.stack([band.mean(axis=0), vocal[0]])
    lowered, gain = gains = np.linalg.lstsq(parts.T, mix.mean(axis=0))[0]
    rest = mix.mean(axis=0) - gains @ parts
    assert np.abs(rest)[2000:-2000].max() < 0.02 * np.abs(gain * vocal).max()
    assert lowered <= 1.001, "only a sum that would pass the highest peak is lowered, as a whole"


def test_a_second_run_writes_the_same_bytes(tmp_path, shards, adapter):
    written = []
    for name in ("one", "two"):
        made = generate(
            GenerationRequest(
                adapters=(adapter,), shards=shards, key="ballad", output_dir=tmp_path / name, device="cpu"
            )
        )
        written.append([path.read_bytes() for path in (*made.accompaniments, *made.mixes, made.record)])
    assert written[0] == written[1]


@pytest.fixture
def into(adapter, tmp_path):
    """into(vocal, **flags) makes a band of one step in out/ and gives what it wrote."""

    def make(vocal, **flags):
        request: dict[str, Any] = {"adapters": (adapter,), "device": "cpu", "prompt": "piano"} | flags
        return play(GenerationRequest(vocal=vocal, output_dir=tmp_path / "out", **request))

    return make


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_no_result_of_another_run_is_overwritten(tmp_path, vocal_file, make_voice, into, capsys):
    """Neither another vocal's of the same name, nor the same vocal's under other settings."""
    out, other = tmp_path / "out", tmp_path / "other" / "ballad_vocal.wav"
    write_audio(other, make_voice(1.0, 48_000), 48_000)
    into(vocal_file)
    first = contents(out)
    assert capsys.readouterr().err.count("kept") == 0
    numbered = into(other)
    assert [path.name for path in (*numbered.accompaniments, *numbered.mixes, numbered.record)] == [
        "ballad_2_accompaniment.wav", "ballad_2_mix.wav", "ballad_2.json"
    ]  # fmt: skip
    message = f"{out}: ballad names other files there already, which are kept. The new ones are called ballad_2.\n"
    assert message in capsys.readouterr().err
    record = read_record(numbered)
    assert (record.key, record.vocal.file) == ("ballad", other.as_posix())
    assert record.results[0].mix == "ballad_2_mix.wav"
    assert into(vocal_file, seed=1).record.name == "ballad_3.json"
    assert into(vocal_file, num_samples=2).record.name == "ballad_4.json"
    assert {name: contents(out)[name] for name in first} == first


def test_numbered_results_are_evaluated_against_their_own_song(tmp_path, vocal_file, into):
    out, truth = tmp_path / "out", vocal_file.with_name("ballad_inst.wav")
    shutil.copy(vocal_file, truth)
    into(vocal_file)
    into(vocal_file, seed=1)
    found = {item.key: item for item in read_items(out, truth=tmp_path, text2music=None)}
    assert {key: (item.vocal, item.true) for key, item in found.items()} == {
        "ballad": (vocal_file, truth), "ballad_2": (vocal_file, truth)
    }  # fmt: skip
    assert found["ballad_2"].bands == (out / "ballad_2_accompaniment.wav",)


def test_the_same_run_again_takes_its_own_place(tmp_path, vocal_file, into):
    for flags in ({}, {"num_samples": 2}):
        into(vocal_file, **flags)
        made = contents(tmp_path / "out")
        into(vocal_file, **flags)
        assert contents(tmp_path / "out") == made


@pytest.mark.parametrize("name", ["ballad_mix.wav", "ballad.json"])
def test_a_users_own_file_is_no_result_to_replace(tmp_path, vocal_file, into, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    assert into(vocal_file).record.name == "ballad_2.json"
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_shards_made_anew_under_the_same_names_are_another_vocal(tmp_path, shards, into):
    source = {"shards": shards, "key": "ballad", "prompt": None}
    into(None, **source)
    assert into(None, **source).record.name == "ballad.json"
    others = [replace(sample, vocal=-sample.vocal) for sample in read_song(shards, "ballad")]
    with ShardWriter(shards, fingerprint=Fingerprint(settings={}, networks={}, steps={}), targets=()) as writer:
        writer.add(others)
    assert into(None, **source).record.name == "ballad_2.json"


def test_a_run_that_fails_keeps_what_was_there_and_nothing_of_its_own(tmp_path, vocal_file, into):
    into(vocal_file)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / f".ballad_2.json.{os.getpid()}.part").mkdir()
    with pytest.raises(UserError, match=r"ballad_2.json: cannot be written"):
        into(vocal_file, num_samples=2)
    (tmp_path / "out" / f".ballad_2.json.{os.getpid()}.part").rmdir()
    assert contents(tmp_path / "out") == before


def test_a_disk_without_room_for_the_results_is_known_before_the_transformer_opens(
    tmp_path, shards, adapter, decoder_only, monkeypatch
):
    """Of a base whose transformer has gone."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000_000))
    (decoder_only / "ace_step_transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    request: dict[str, Any] = {
        "adapters": (adapter,), "checkpoint_dir": str(decoder_only), "output_dir": tmp_path / "out", "device": "cpu"
    }  # fmt: skip
    with pytest.raises(UserError, match=r"out: the results take 144 MB and 10 MB are free\. Make room, or"):
        generate(GenerationRequest(shards=shards, key="hymn", **request))


def test_several_samples_count_their_seeds_up(tmp_path, shards, adapter):
    request: dict[str, Any] = {"adapters": (adapter,), "shards": shards, "key": "ballad", "device": "cpu"}
    many = play(GenerationRequest(**request, seed=7, num_samples=2, output_dir=tmp_path / "many"))
    alone = play(GenerationRequest(**request, seed=8, output_dir=tmp_path / "alone"))
    assert [path.name for path in (*many.accompaniments, *many.mixes)] == [
        "ballad_accompaniment_01.wav", "ballad_accompaniment_02.wav", "ballad_mix_01.wav", "ballad_mix_02.wav"
    ]  # fmt: skip
    assert many.accompaniments[1].read_bytes() == alone.accompaniments[0].read_bytes()
    assert many.accompaniments[0].read_bytes() != alone.accompaniments[0].read_bytes()
    record = read_record(many)
    assert [(made.seed, made.mix) for made in record.results] == [(7, "ballad_mix_01.wav"), (8, "ballad_mix_02.wav")]


def test_an_adapter_of_whole_mixes_makes_a_mix_alone(tmp_path, shards, make_adapter):
    folder = make_adapter(output_type="mix")
    made = play(
        GenerationRequest(adapters=(folder,), shards=shards, key="ballad", output_dir=tmp_path / "out", device="cpu")
    )
    assert made.accompaniments == ()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ballad.json", "ballad_mix.wav"]


def test_a_record_holds_all_that_was_used(tmp_path, shards, adapter, make_adapter, make_voice):
    other, band = make_adapter(step=9), tmp_path / "band.wav"
    write_audio(band, make_voice(2.0, 44_100), 44_100)
    request = GenerationRequest(
        adapters=(adapter, other), lora_weights=(0.5, 0.3), shards=shards, key="ballad", infer_steps=2,
        scheduler="pingpong", guidance="cfg", guidance_interval=1.0, vocal_guidance_scale=2.0,
        blend=band, mix_ratio=0.5, preserve_low=True, mixdown_vocal_db=-3.0, output_dir=tmp_path / "out", device="cpu",
    )  # fmt: skip
    record = read_record(play(request))
    assert [(used.folder, used.step) for used in record.adapters] == [(adapter.as_posix(), 20), (other.as_posix(), 9)]
    assert record.settings.lora_weights == (0.5, 0.3)
    assert record.settings.sampler == SamplerSettings(
        steps=2,
        scheduler="pingpong",
        guidance="cfg",
        guidance_scale=7.0,
        guidance_interval=1.0,
        vocal_guidance_scale=2.0,
    )
    assert record.settings.blend == BlendSettings(mix_ratio=0.5, preserve_low=True)
    assert record.reference == ReferenceRecord(file=band.as_posix(), sha256=sha256_of_file(band))
    assert record.settings.mixdown == MixdownSettings(vocal_db=-3.0)


def test_a_style_is_recorded_and_its_mistakes_are_one_line(tmp_path, shards, adapter, style, capsys):
    source = ("generate", "--shards", shards, "--key", "ballad", "--adapter", adapter, "--infer-steps", 1)
    out = tmp_path / "out"
    code, _, err = outcome(capsys, *source, "--style-lora", style, "--style-weight", 0.7, "--output-dir", out)
    assert code == 0, err
    record = GenerationRecord(**json.loads((out / "ballad.json").read_text()))
    assert record.style == StyleRecord(file=style.as_posix(), sha256=sha256_of_file(style), weight=0.7)
    assert f"{style}: says no alpha; its update is taken as it stands, as ACE-Step and ComfyUI do.\n" in err
    code, _, err = outcome(capsys, *source, "--style-weight", 0.7)
    message = "error: --style-weight 0.7: of which LoRA? Name it with --style-lora FILE."
    assert (code, err.splitlines()[-1]) == (2, message)
    code, _, err = outcome(capsys, *source, "--style-lora", style, "--style-weight", 17)
    message = "error: infer generate: style_weight: Input should be less than or equal to 16, got 17.0"
    assert (code, err.splitlines()[-1]) == (2, message)
    pickle = tmp_path / "style.pt"
    torch.save({}, pickle)
    code, _, err = outcome(capsys, *source, "--style-lora", pickle, "--checkpoint-dir", "gone")
    message = f"error: {pickle}: a pickle may run anything as it is read, so none is. Save it as .safetensors."
    assert (code, err.splitlines()[-1]) == (2, message)


def test_a_reference_alone_comes_out_as_the_codec_gives_it_back(tmp_path, shards, adapter, make_voice):
    band = tmp_path / "band.wav"
    write_audio(band, make_voice(2.0, 44_100), 44_100)
    request: dict[str, Any] = {"adapters": (adapter,), "shards": shards, "key": "ballad", "device": "cpu"}
    made = [
        play(GenerationRequest(**request, seed=seed, blend=band, mix_ratio=0.0, output_dir=tmp_path / str(seed)))
        for seed in (1, 2)
    ]
    one, other = (result.accompaniments[0].read_bytes() for result in made)
    assert one == other
    plain = play(GenerationRequest(**request, seed=1, output_dir=tmp_path / "plain"))
    unchanged = play(GenerationRequest(**request, seed=1, blend=band, mix_ratio=1.0, output_dir=tmp_path / "all"))
    assert unchanged.accompaniments[0].read_bytes() == plain.accompaniments[0].read_bytes() != one


def test_mixdown_settings_change_the_mix_alone(tmp_path, shards, adapter):
    request: dict[str, Any] = {"adapters": (adapter,), "shards": shards, "key": "ballad", "device": "cpu"}
    plain = play(GenerationRequest(**request, output_dir=tmp_path / "plain"))
    quiet = play(GenerationRequest(**request, mixdown_peak_dbfs=-30.0, output_dir=tmp_path / "quiet"))
    assert quiet.accompaniments[0].read_bytes() == plain.accompaniments[0].read_bytes()
    assert peak_dbfs(read_audio(quiet.mixes[0]).samples) == pytest.approx(-30.0, abs=0.01)


OPENED: list[str] | None = None


def _watch(event, arguments):
    if OPENED is not None and event in ("open", "os.listdir", "os.scandir"):
        OPENED.append(str(arguments[0]))


sys.addaudithook(_watch)


def test_cached_latents_need_no_encoder(tmp_path, shards, adapter, decoder_only, monkeypatch):
    """From a bundle that cannot encode; of the bundle that can, nothing is touched."""
    base_of(read_card(adapter))  # what tells an older adapter's base, once in a process
    monkeypatch.setattr(sys.modules[__name__], "OPENED", [])
    made = generate(
        GenerationRequest(
            adapters=(adapter,),
            shards=shards,
            key="ballad",
            checkpoint_dir=str(decoder_only),
            output_dir=tmp_path / "out",
            device="cpu",
        )
    )
    assert soundfile.info(made.accompaniments[0]).frames == round((10 * 4096 - 100) * 48_000 / 44_100)
    assert OPENED is not None
    assert any(str(decoder_only) in path for path in OPENED)
    for forbidden in ("umt5-base", "demucs", str(TINY)):
        assert not [path for path in OPENED if forbidden in path]


def test_the_command_takes_the_older_spelling_and_prints_what_it_wrote(tmp_path, vocal_file, adapter, capsys):
    code, out, err = outcome(
        capsys, "generate", "--vocal_path", vocal_file, "--lora_path", adapter, "--ref_strength", 0.5, "--lora_weight",
        0.8, "--guidance_scale", 2, "--infer_steps", 2, "--output_dir", tmp_path / "out", "--prompt", "piano",
    )  # fmt: skip
    assert (code, [line.rpartition("/")[2] for line in out.splitlines()]) == (
        0,
        ["ballad_accompaniment.wav", "ballad_mix.wav", "ballad.json"],
    )
    assert "sampling: 2/2 steps" in err
    settings = GenerationRecord(**json.loads((tmp_path / "out" / "ballad.json").read_text())).settings
    assert (settings.ref_strength, settings.lora_weights) == (0.5, (0.8,))
    assert (settings.sampler.guidance_scale, settings.sampler.steps) == (2, 2)


def test_the_command_sets_the_sampler_by_name_and_by_the_flags_that_its_help_no_longer_lists(
    tmp_path, vocal_file, adapter, capsys
):
    source = ("generate", "--vocal", vocal_file, "--adapter", adapter, "--prompt", "piano", "--infer-steps", 1)
    named = ("--set", "sampler.guidance=cfg", "--set", "sampler.omega_scale=0", "--set", "sampler.shift=2")
    flags = ("--guidance", "cfg", "--omega_scale", 0, "--set", "sampler.shift=2")
    for name, given in (("named", named), ("flags", flags)):
        assert outcome(capsys, *source, *given, "--output-dir", tmp_path / name)[0] == 0
    records = [(tmp_path / name / "ballad.json").read_bytes() for name in ("named", "flags")]
    assert records[0] == records[1]
    sampler = GenerationRecord(**json.loads(records[0])).settings.sampler
    assert (sampler.steps, sampler.guidance, sampler.omega_scale, sampler.shift) == (1, "cfg", 0, 2)
    code, out, err = outcome(capsys, *source, *flags, "--set", "sampler.guidance=apg")
    assert (code, out, err.splitlines()[-1]) == (
        2, "", "error: --set sampler.guidance and --guidance are one setting. Give one of them.",
    )  # fmt: skip
    _, shown, _ = outcome(capsys, "generate", "--help")
    assert "--set NAME=VALUE" in shown
    for flag in (
        "--scheduler",
        "--guidance",
        "--omega-scale",
        "--min-guidance-scale",
        "--vocal-guidance-scale",
        "--erg",
    ):
        assert flag not in shown


def test_a_missing_prompt_is_said(vocal_file, adapter, capsys, tmp_path):
    code, _, err = outcome(
        capsys, "generate", "--vocal", vocal_file, "--adapter", adapter, "--infer-steps", 1, "--output-dir", tmp_path
    )
    assert code == 0
    assert 'no --prompt and no ballad_prompt.txt: taking "instrumental".\n' in err


def test_words_may_lie_beside_the_vocal(vocal_file, adapter, tmp_path):
    vocal_file.with_name("ballad_prompt.txt").write_text("organ, 90bpm\n")
    vocal_file.with_name("ballad_lyrics.txt").write_text("[verse]\n\n[chorus]\n")
    request: dict[str, Any] = {"adapters": (adapter,), "vocal": vocal_file, "infer_steps": 1, "device": "cpu"}
    record = read_record(play(GenerationRequest(**request, output_dir=tmp_path / "out")))
    assert (record.prompt, record.lyrics) == ("organ, 90bpm", "[verse]\n\n[chorus]")
    record = read_record(play(GenerationRequest(**request, prompt="piano", output_dir=tmp_path / "out")))
    assert (record.prompt, record.lyrics) == ("piano", "[verse]\n\n[chorus]")


def silent(path):
    write_audio(path, np.zeros((1, 48_000), np.float32), 48_000)
    return path


def blip(path):
    write_audio(path, np.full((1, 9600), 0.1, np.float32), 48_000)
    return path


def noise(path):
    path.write_bytes(b"no audio at all")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (silent, "a.wav: this vocal is silent (peak -inf dBFS). Give one that can be heard."),
        (blip, "a.wav: 0.20 s is shorter than one loudness block (0.4 s)."),
        (noise, "a.wav: "),
        (lambda path: path, "a.wav: no such file."),
    ],
)
def test_a_bad_vocal_is_one_line_and_code_2(tmp_path, adapter, capsys, make, message):
    path = make(tmp_path / "a.wav")
    code, out, err = outcome(
        capsys, "generate", "--vocal", path, "--adapter", adapter, "--output-dir", tmp_path / "out"
    )
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("make", "message"), [(noise, "ref.wav: "), (lambda path: path, "ref.wav: no such file.")])
def test_a_bad_reference_is_one_line_and_code_2(tmp_path, shards, adapter, capsys, make, message):
    path = make(tmp_path / "ref.wav")
    code, out, err = outcome(
        capsys, "generate", "--shards", shards, "--key", "ballad", "--adapter", adapter, "--blend", path,
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_an_adapter_for_another_base_or_with_nothing_in_common_is_one_line(shards, adapter, make_adapter, capsys):
    source = ("generate", "--shards", shards, "--key", "ballad")
    foreign = make_adapter(base_fingerprint="0" * 64)
    this = part_hash(TINY, "ace_step_transformer")[:8]
    code, out, err = outcome(capsys, *source, "--adapter", foreign, "--checkpoint-dir", "tiny")
    assert (code, out, err.splitlines()[-1]) == (
        2, "",
        f"error: {foreign}: made for the base 00000000, this one is {this}. "
        "Give the --checkpoint-dir that it was trained with.",
    )  # fmt: skip
    code, out, err = outcome(capsys, *source, "--adapter", adapter, "--adapter", foreign)
    assert (code, out, err.splitlines()[-1]) == (
        2, "",
        f"error: {foreign}: cannot be combined with {adapter}: its base is 00000000, not {this}. "
        "Combine adapters that were trained alike.",
    )  # fmt: skip


def test_erg_opens_the_text_encoder_and_no_other(tmp_path, shards, deep_base, make_adapter, monkeypatch):
    folder = make_adapter(base=deep_base)
    request: dict[str, Any] = {
        "adapters": (folder,), "shards": shards, "key": "ballad", "checkpoint_dir": str(deep_base), "device": "cpu",
        "infer_steps": 2,
    }  # fmt: skip
    plain = generate(GenerationRequest(**request, output_dir=tmp_path / "plain"))
    monkeypatch.setattr(sys.modules[__name__], "OPENED", [])
    erg = generate(GenerationRequest(**request, erg=True, output_dir=tmp_path / "erg"))
    assert OPENED is not None
    assert any("umt5-base" in path for path in OPENED)
    assert not [path for path in OPENED if "demucs" in path or str(TINY) in path]
    assert read_record(erg).settings.sampler.erg
    assert erg.accompaniments[0].read_bytes() != plain.accompaniments[0].read_bytes()


def test_erg_says_that_tiny_is_too_small_for_it(shards, adapter, capsys):
    code, out, err = outcome(capsys, "generate", "--shards", shards, "--key", "ballad", "--adapter", adapter, "--erg")
    assert (code, out, err.splitlines()[-1]) == (
        2, "",
        "error: erg: this text encoder has 2 blocks; blocks 8 and 9 are those to weaken. Set erg to false.",
    )  # fmt: skip


def test_a_vocal_alone_is_enough(tmp_path, vocal_file, capsys):
    """The tiny base, the adapter inside Backline, and the lead sheet that the voice tells."""
    code, out, err = outcome(
        capsys, "generate", "--vocal", vocal_file, "--infer-steps", 1, "--output-dir", tmp_path / "out"
    )
    assert (code, [line.rpartition("/")[2] for line in out.splitlines()]) == (
        0, ["ballad_accompaniment.wav", "ballad_mix.wav", "ballad_lead_sheet.txt", "ballad.json"]
    )  # fmt: skip
    assert "no --adapter: the one inside Backline" in err
    assert "lead sheet inferred from the vocal" in err


def test_other_mistakes_are_one_line_too(tmp_path, vocal_file, shards, adapter, capsys):
    code, _, err = outcome(capsys, "generate", "--vocal", vocal_file, "--checkpoint-dir", tmp_path)
    assert (code, err) == (
        2, f"error: --checkpoint-dir {tmp_path}: no adapter comes with it. Name one with --adapter.\n"
    )  # fmt: skip
    code, _, err = outcome(capsys, "generate", "--vocal", vocal_file, "--adapter", tmp_path)
    assert code == 2
    assert err == (
        f"error: {tmp_path}: no adapter.json inside. Give a folder that `train run` wrote (checkpoints/..._lora).\n"
    )
    code, _, err = outcome(capsys, "generate", "--shards", shards, "--key", "waltz", "--adapter", adapter)
    assert (code, err.splitlines()[-1]) == (
        2, f"error: {shards}: no song waltz among 2. prep inspect lists them."
    )  # fmt: skip
