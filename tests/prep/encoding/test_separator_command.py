"""A program of the user's as separator: what it leaves is used, and what goes wrong with it costs only its song."""

import json
import shlex
import sys

import numpy as np
import pytest

from common.audio.wave import write_audio
from common.bases import ACE_STEP_1
from common.errors import UserError
from prep.building.repair import rebuild_damaged
from prep.config import SeparatorConfig, load_prep_config
from prep.encoding.separator_command import CommandSeparator, find_command
from shards.reader import read_manifest, read_song

RATE_HZ = ACE_STEP_1.latents.sample_rate_hz
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import soundfile

mix, rate = soundfile.read(sys.argv[1], dtype="float32")
out = Path(sys.argv[2])
vocal = np.repeat(mix.mean(axis=1, keepdims=True), 2, axis=1)  # the band is on the side
tenths = round(10 * len(mix) / rate)
if tenths == 20:
    sys.exit("loading...\\nno room on the card.")
if tenths == 21:
    (out / "notes.txt").write_text("nothing")
elif tenths == 22:
    soundfile.write(out / "vocals.wav", vocal[: len(vocal) // 2], rate, subtype="FLOAT")
elif tenths == 23:
    (out / "vocals.wav").write_text("no audio")
elif tenths == 24:
    noise = 0.1 * np.random.default_rng(1).normal(size=vocal.shape)
    soundfile.write(out / "vocals.wav", noise, rate)
elif tenths == 25:
    for stem in ("vocals", "drums", "other"):
        soundfile.write(out / f"{stem}.wav", vocal, rate)
elif tenths == 16:
    folder = out / "htdemucs" / "song"
    folder.mkdir(parents=True)
    for stem, wave in {"vocals": vocal, "drums": mix - vocal, "bass": 0 * mix, "other": 0 * mix}.items():
        soundfile.write(folder / f"{stem}.wav", wave, rate, subtype="FLOAT")
elif tenths == 17:
    soundfile.write(out / "song_(Instrumental)_model.wav", mix - vocal, rate, subtype="FLOAT")
else:
    for stem, wave in {"vocals": vocal, "no_vocals": mix - vocal}.items():
        soundfile.write(out / f"{stem}.wav", wave, rate, subtype="FLOAT")
"""
GOOD = {"two": 1.5, "four": 1.6, "band": 1.7}
BAD = {
    "fails": (2.0, "failed with exit code 1 (no room on the card)."),
    "leaves_nothing": (2.1, "left no vocal and no band (nothing)."),
    "half": (
        2.2,
        "left a vocal that cannot be used: its files differ in length by 1.10 s (at most 0.5 s is allowed).",
    ),
    "text": (2.3, None),
    "noise": (2.4, None),
    "not_whole": (2.5, None),
}


@pytest.fixture
def command(tmp_path):
    """A command that separates by the script, which lies in the test's own folder."""
    script = tmp_path / "separate.py"
    script.write_text(SCRIPT)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{mix}} {{out}}"


@pytest.fixture
def ungated(config, command):
    """Settings with that command, whose vocals are kept as it leaves them."""
    separator = SeparatorConfig(command=command, gate_db=None)
    return config.model_copy(update={"separator": separator})


def make_song(music, seconds, seed):
    """A voice in the middle and a band on the side."""
    parts = music(seconds, seed=seed)
    side = np.stack([parts.inst[0], -parts.inst[0]])
    return parts.vocal, parts.vocal + side


def write(folder, name, wave):
    folder.mkdir(exist_ok=True)
    write_audio(folder / f"{name}.wav", wave, RATE_HZ, subtype="PCM_16")


def test_its_vocals_make_the_samples_of_given_ones_and_its_failures_cost_a_song_each(
    tmp_path, music, build, ungated, encoded_songs
):
    for seed, (key, seconds) in enumerate(GOOD.items()):
        vocal, mix = make_song(music, seconds, seed)
        write(tmp_path / "raw", key, mix)
        write(tmp_path / "given", f"{key}_vocal", vocal)
        write(tmp_path / "given", f"{key}_mix", mix)
    for seed, (key, (seconds, _)) in enumerate(BAD.items(), 10):
        write(tmp_path / "raw", key, make_song(music, seconds, seed)[1])
    build("by_name", raw="given")
    report = build(config=ungated)
    assert report.kept == len(GOOD)
    rows = {row.key: (row.reason, row.detail) for row in report.rejections}
    assert rows.keys() == BAD.keys()
    for key, (_, detail) in BAD.items():
        reason, said = rows[key]
        assert reason == "not_separated"
        assert "\n" not in said
        assert said == f"separator.command: separate.py {detail}" or detail is None
    assert "left a vocal that cannot be used: vocals.wav: " in rows["text"][1]
    assert "its vocal is not found in its mix" in rows["noise"][1]
    assert rows["not_whole"][1].startswith("separator.command: separate.py left stems that are not clear: drums.wav, ")
    for key in GOOD:
        ((named,), (separated,)) = (read_song(tmp_path / folder, key) for folder in ("by_name", "shards"))
        assert (separated.meta.separator, separated.meta.derived) == ("separate.py", "inst")
        for name, array in named.arrays().items():
            np.testing.assert_array_equal(separated.arrays()[name], array)
    assert list((tmp_path / "shards" / ".build").glob("tmp*")) == []
    encoded_songs.clear()
    build(config=ungated)
    assert sorted(encoded_songs) == sorted(BAD)  # another try may end better
    (tmp_path / "separate.py").write_text(SCRIPT + "# another")
    with pytest.raises(UserError, match=r"these shards were built otherwise: network demucs was"):
        build(config=ungated)


def test_the_fingerprint_holds_its_hash_and_no_command(tmp_path, music, build, ungated, command):
    write(tmp_path / "raw", "two", make_song(music, 1.5, 0)[1])
    build(config=ungated)
    fingerprint = read_manifest(tmp_path / "shards").fingerprint
    assert fingerprint.networks["demucs"] == find_command(command).content_hash()
    assert "command" not in json.dumps(fingerprint.settings)


def test_a_command_in_a_file_is_never_started(tmp_path, music, build, config, command):
    said = "separator.command is taken from the command line only: use --set separator.command=..."
    (tmp_path / "found.json").write_text(json.dumps({"separator": {"command": command}}))
    with pytest.raises(UserError) as raised:
        load_prep_config(str(tmp_path / "found.json"), [])
    assert str(raised.value) == f"{tmp_path / 'found.json'}: {said}"
    assert load_prep_config("prep_base", [f"separator.command={command}"]).separator.command == command
    write(tmp_path / "raw", "two_vocal", make_song(music, 1.5, 0)[0])
    write(tmp_path / "raw", "two_mix", make_song(music, 1.5, 0)[1])
    build()
    manifest = tmp_path / "shards" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["fingerprint"]["settings"]["separator"]["command"] = command
    manifest.write_text(json.dumps(content))
    for path in (tmp_path / "shards" / ".build" / "manifest.json", *(tmp_path / "shards").glob("*.tar")):
        path.unlink()
    with pytest.raises(UserError) as raised:
        rebuild_damaged(
            tmp_path / "shards",
            tmp_path / "raw",
            checkpoint="tiny",
            devices=("cpu",),
            ssl_folder=None,
            workers=1,
        )
    assert str(raised.value) == f"{manifest}: {said}"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("prog {mix}", 'prog {mix}: has no {out}. Write it as "prog {mix} {out}": the file to separate, and the'),
        ("", ': has no {mix}. Write it as "prog {mix} {out}": the file to separate, and the folder for its stems.'),
        ("no-such-program-at-all {mix} {out}", "no-such-program-at-all: no such program."),
        ("prog '{mix} {out}", "prog '{mix} {out}: cannot be split into words (No closing quotation)."),
    ],
)
def test_a_command_that_cannot_be_is_said_before_any_song(command, said):
    with pytest.raises(UserError) as raised:
        find_command(command)
    assert str(raised.value).startswith(f"separator.command: {said}")
    assert "\n" not in str(raised.value)


def test_a_shorter_vocal_is_filled_up_with_silence(tmp_path, music, disk_wave, config, monkeypatch):
    script = tmp_path / "short.py"
    script.write_text(
        "import sys, soundfile\n"
        "mix, rate = soundfile.read(sys.argv[1], dtype='float32')\n"
        "soundfile.write(sys.argv[2] + '/vocals.wav', mix[: len(mix) - 1000] * [[1, 1]], rate, subtype='FLOAT')\n"
    )
    vocal, _ = make_song(music, 1.5, 0)
    separator = CommandSeparator(
        find_command(f"{shlex.quote(sys.executable)} {script} {{mix}} {{out}}"),
        config.stems.model_copy(update={"max_leak_db": 0.0, "swapped": "keep"}),
    )
    found = np.concatenate(list(separator.vocal(disk_wave(vocal))), axis=1)
    np.testing.assert_array_equal(found[:, :-1000], vocal[:, :-1000])
    assert found.shape == vocal.shape
    assert not found[:, -1000:].any()
