"""A region of a take made anew: the rest stays bit for bit, and the record says how to do it again."""

import json
import shutil
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import soundfile

from common.audio.wave import read_audio, write_audio
from common.command import run
from common.errors import UserError
from infer.audio.reference import ReferenceRecord
from infer.audio.splice import Region
from infer.band.generate import generate
from infer.band.session import Session
from infer.cli import app
from infer.request.again import EarlierTake, say_changes
from infer.request.record import GenerationRecord, StyleRecord
from infer.request.request import GenerationRequest

START, END = 0.5, 1.0


@pytest.fixture(scope="module")
def networks():
    return Session()


@pytest.fixture
def take(tmp_path, vocal_file, adapter, networks):
    """The record of a take of two steps and seed 3."""
    made = generate(
        GenerationRequest(
            adapters=(adapter,),
            vocal=vocal_file,
            prompt="piano",
            lora_weights=(0.7,),
            infer_steps=2,
            seed=3,
            output_dir=tmp_path / "out",
            device="cpu",
        ),
        networks,
    )
    return made.record


@pytest.fixture
def again(tmp_path, networks):
    """again(record, seed=...) makes the region of a take anew, and gives what was written."""

    def make(record, start=START, end=END, **flags):
        request: dict[str, Any] = {"adapters": (), "output_dir": tmp_path / "out", "device": "cpu"} | flags
        return generate(GenerationRequest(again=record, again_from=start, again_to=end, **request), networks)

    return make


def record_of(path):
    return GenerationRecord(**json.loads(path.read_text()))


def stored(path):
    """What the file holds, as integers."""
    samples, rate_hz = soundfile.read(path, dtype="int32")
    assert rate_hz == 48_000
    return samples


def test_twenty_times_anew_leaves_the_rest_as_it_was(take, again):
    """Each of the take before: nothing creeps in, and the region is another each time."""
    first, last = round(START * 48_000), round(END * 48_000)
    before = stored(take.with_name("ballad_accompaniment.wav"))
    regions, record = [before[first:last]], take
    for _ in range(20):
        made = again(record, infer_steps=1)
        now = stored(made.accompaniments[0])
        assert np.array_equal(now[:first], before[:first])
        assert np.array_equal(now[last:], before[last:])
        regions.append(now[first:last])
        record = made.record
    assert all(np.abs(one - other).max() > 0 for one, other in pairwise(regions))
    assert record_of(record).settings.seed == 23


def test_what_is_not_given_is_as_it_was_and_the_record_makes_it_again(take, again, tmp_path):
    made = again(take)
    before, now = record_of(take), record_of(made.record)
    assert (now.settings.seed, now.again.take, now.again.start_seconds, now.again.end_seconds) == (
        4, take.as_posix(), START, END
    )  # fmt: skip
    as_before = {"settings": before.settings, "results": before.results, "again": None}
    assert now.model_copy(update=as_before) == before
    assert now.settings.model_copy(update={"seed": 3}) == before.settings
    twin = again(take, now.again.start_seconds, now.again.end_seconds, seed=4, output_dir=tmp_path / "twin")
    for one, other in zip((*made.accompaniments, *made.mixes), (*twin.accompaniments, *twin.mixes), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_sound_runs_on_over_the_edges(take, again):
    """No click: samples at the edges differ from those before by no more than elsewhere."""
    band = read_audio(again(take).accompaniments[0]).samples
    steps = np.abs(np.diff(band, axis=1)).max(axis=0)
    at_edges = np.zeros(steps.size, dtype=bool)
    for edge in (START, END):
        at_edges[round(edge * 48_000) - 50 :][:100] = True
    assert 0 < steps[at_edges].max() <= steps[~at_edges].max()


def test_another_vocal_of_the_same_length_is_taken_and_said(take, again, make_voice, tmp_path, capsys):
    other = tmp_path / "other_vocal.wav"
    write_audio(other, make_voice(1.5, 48_000) * np.float32(0.5), 48_000)
    made = again(take, vocal=other)
    assert f"{take}: the region is made with another vocal than the rest of the take.\n" in capsys.readouterr().err
    assert record_of(made.record).vocal.file == other.as_posix()


def test_another_reference_and_another_style_are_said(take, capsys):
    before = record_of(take)
    now = before.model_copy(
        update={
            "reference": ReferenceRecord(file="piano.wav", sha256="1" * 64),
            "style": StyleRecord(file="style", sha256="2" * 64, weight=1.0),
        }
    )
    say_changes(EarlierTake(take, now, Region(START, END)), now)
    assert not capsys.readouterr().err
    say_changes(EarlierTake(take, before, Region(START, END)), now)
    said = f"{take}: the region is made with another reference and style LoRA than the rest of the take.\n"
    assert capsys.readouterr().err == said


def test_what_is_no_region_of_a_take_is_refused_in_one_line(take, again, make_voice, vocal_file, tmp_path):
    write_audio(tmp_path / "long_vocal.wav", make_voice(2.0, 48_000), 48_000)
    several, lost, whole = (take.with_name(f"{name}.json") for name in ("several", "lost", "whole"))
    told = json.loads(take.read_text())
    (result,) = told["results"]
    several.write_text(json.dumps(told | {"results": [result, result]}))
    lost.write_text(json.dumps(told | {"results": [result | {"accompaniment": "lost.wav"}]}))
    whole.write_text(json.dumps(told | {"results": [result | {"accompaniment": None}]}))
    shorter = take.with_name("shorter.json")
    shutil.copy(vocal_file, take.with_name("shorter.wav"))
    shorter.write_text(json.dumps(told | {"results": [result | {"accompaniment": "shorter.wav"}], "samples": 72_000}))
    write_audio(take.with_name("shorter.wav"), make_voice(1.2, 48_000), 48_000)
    gone = take.with_name("gone.json")
    within = "Take a start below the end, both within its 1.5 s."
    nowhere, moved = (take.with_name(f"{name}.json") for name in ("nowhere", "moved"))
    nowhere.write_text(json.dumps(told | {"vocal": told["vocal"] | {"file": None}}))
    moved.write_text(json.dumps(told | {"vocal": told["vocal"] | {"file": "gone/ballad_vocal.wav"}}))
    sound = take.with_name("ballad_accompaniment.wav")
    for record, start, end, flags, line in (
        (take, 1.0, 1.6, {}, f"{take}: from 1 to 1.6 s is no part of it. {within}"),
        (take, 1.0, 0.5, {}, f"{take}: from 1 to 0.5 s is no part of it. {within}"),
        (take, 0.5, float("nan"), {}, f"{take}: from 0.5 to nan s is no part of it. {within}"),
        (take, 0.5, 0.8, {}, f"{take}: a region of 0.30 s is too short; take 0.37 s or more."),
        (take, None, 1.0, {}, f"--again {take}: from where to where? Give --from and --to, in seconds."),
        (None, 0.5, 1.0, {}, "--from and --to: of which take? Name its record with --again TAKE.json."),
        (gone, 0.5, 1.0, {}, f"{gone}: no such record. Name the .json that lies beside a result of infer generate."),
        (
            sound, 0.5, 1.0, {},
            f"{sound}: a sound, not a record. Name the .json that lies beside a result of infer generate.",
        ),
        (nowhere, 0.5, 1.0, {}, f"{nowhere}: vocal: names neither a file nor shards"),
        (
            moved, 0.5, 1.0, {},
            f"{moved}: it names gone/ballad_vocal.wav, which is not there. Say where it is now with --vocal.",
        ),
        (
            several, 0.5, 1.0, {},
            f"{several}: it tells of 2 results. Make the one to change alone, with its --seed, and name its record.",
        ),
        (
            lost, 0.5, 1.0, {},
            f"{take.with_name('lost.wav')}: no such file, and lost.json is its record. Put it back.",
        ),
        (whole, 0.5, 1.0, {}, f"{whole}: its adapter makes whole mixes, in which no part can be kept as it is."),
        (
            shorter, 0.5, 1.0, {},
            f"{take.with_name('shorter.wav')}: 57600 samples at 48 kHz, where its record has 72000. "
            "Put back the file that was written.",
        ),
        (
            take, 0.5, 1.0, {"vocal": tmp_path / "long_vocal.wav"},
            f"{take}: its vocal had 1.500 s, this one has 2.000 s. Give the vocal that it was made for with --vocal.",
        ),
    ):  # fmt: skip
        with pytest.raises(UserError) as refused:
            again(record, start, end, **flags)
        assert str(refused.value) == line


def test_the_command_makes_a_region_anew(take, capsys):
    flags = ["--again", take, "--from", 0.5, "--to", 1, "--infer-steps", 1, "--output-dir", take.parent]
    with pytest.raises(SystemExit) as stopped:
        run(app, ["generate", *map(str, flags), "--device", "cpu"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        str(take.with_name(f"ballad_2{ending}")) for ending in ("_accompaniment.wav", "_mix.wav", ".json")
    ]
