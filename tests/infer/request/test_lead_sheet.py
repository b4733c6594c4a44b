"""The lead sheet of a generation: which one counts, what is said and refused, and what lies beside the result."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.command import run
from common.errors import UserError
from common.music.features import lead_sheet_features
from common.music.notation import read_lead_sheet, write_lead_sheet
from infer.band.generate import generate
from infer.band.inputs import read_inputs
from infer.band.networks import AccompanimentSampler
from infer.band.session import Session
from infer.cli import app
from infer.request.plan import plan_generation
from infer.request.request import GenerationRequest
from models.adapters.conditioning import Conditioning, ControlShape, LeadSheetShape
from models.harmony.network import HarmonyNetwork, HarmonyShape, harmony_network_hash, save_harmony_network
from models.harmony.trained import SHIPPED_HARMONISER
from shards.fingerprint import Fingerprint
from shards.reader import read_song
from shards.writer import ShardWriter

TEXT = "key: A minor\ntime: 4/4\nbpm: 140\noffset: -0.4\n| Am | F | C G | Am |\n"
OTHER = TEXT.replace("A minor", "D minor").replace("| Am | F |", "| Dm | Gm |")
SHEET = LeadSheetShape(depth=1, dim=32, injection_layers=(0, 3))
CONTROL = Conditioning(
    mode="controlnet",
    a_max=0.0,
    source_projection=False,
    control=ControlShape(depth=1, dim=128, injection_layers=(0, 2)),
    lead_sheet=SHEET,
)
BOTH = pytest.mark.parametrize(
    "conditioning", [Conditioning(lead_sheet=SHEET), CONTROL], ids=["image2image", "controlnet"]
)
INFERRED = "lead sheet inferred from the vocal"
SILENT = "no lead sheet: the band follows the vocal alone. --lead-sheet FILE gives it tempo, key and chords."


@pytest.fixture
def sheet_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def sheet_shards(shards, tmp_path):
    """The songs of `shards`, the ballad with a lead sheet that its segments cut."""
    sheet = read_lead_sheet(TEXT)
    with ShardWriter(
        tmp_path / "sheets", fingerprint=Fingerprint(settings={}, networks={}, steps={}), targets=()
    ) as writer:
        start, segments = 0.0, []
        for one in read_song(shards, "ballad"):
            segments.append(replace(one, lead_sheet=sheet.cut(start, start + one.meta.seconds)))
            start += one.meta.seconds
        writer.add(segments)
    return tmp_path / "sheets"


SESSION = Session()
"""Its networks stay open from test to test."""


def requested(adapter: Path, tmp_path: Path, **changes: Any) -> GenerationRequest:
    flags: dict[str, Any] = {
        "infer_steps": 2,
        "device": "cpu",
        "output_dir": tmp_path / "out",
        "checkpoint_dir": "tiny",
    } | changes
    return GenerationRequest(adapters=(adapter,), **flags)


def play(request):
    return generate(request, SESSION)


def sheet_of(request):
    with read_inputs(plan_generation(request), SESSION) as inputs:
        return inputs.vocal.lead_sheet


def test_the_one_that_is_asked_for_counts_before_that_of_the_shards(make_adapter, sheet_shards, sheet_file, tmp_path):
    adapter = make_adapter(CONTROL)
    of_shards = {"shards": sheet_shards, "key": "ballad"}
    found = sheet_of(requested(adapter, tmp_path, **of_shards))
    assert found is not None
    frames = [lead_sheet_features(sheet, 10, 44_100 / 4096) for sheet in (found, read_lead_sheet(TEXT))]
    np.testing.assert_allclose(frames[0], frames[1], atol=0.05)
    sheet_file.write_text(OTHER)
    assert sheet_of(requested(adapter, tmp_path, **of_shards, lead_sheet=sheet_file)) == read_lead_sheet(OTHER)


def test_beside_a_vocal_it_is_found_as_the_prompt_is(make_adapter, vocal_file, sheet_file, tmp_path, capsys):
    adapter = make_adapter(CONTROL)
    request = requested(adapter, tmp_path, vocal=vocal_file, prompt="piano")
    (tmp_path / "ballad_lead_sheet.txt").write_text(OTHER)
    assert sheet_of(request) == read_lead_sheet(OTHER)
    assert sheet_of(replace(request, lead_sheet=sheet_file)) == read_lead_sheet(TEXT)
    assert INFERRED not in capsys.readouterr().err


def test_without_any_the_vocal_tells_it_and_a_vocal_from_shards_cannot(
    make_adapter, vocal_file, shards, tmp_path, capsys
):
    adapter = make_adapter(CONTROL)
    sheet = sheet_of(requested(adapter, tmp_path, vocal=vocal_file, prompt="piano"))
    assert f"{INFERRED}: {sheet.key.name}, {sheet.bpm:.0f} bpm, {len(sheet.bars)} bars." in capsys.readouterr().err
    assert all(9 in one.chord.notes for one in sheet.chord_segments())  # an A is sung
    chords = sheet_of(requested(adapter, tmp_path, vocal=vocal_file, prompt="piano", chords="| F#m |"))
    assert {one.chord.root for one in chords.chord_segments()} == {6}
    np.testing.assert_array_equal(chords.beat_times()[: len(sheet.beat_times())], sheet.beat_times())
    capsys.readouterr()
    assert sheet_of(requested(adapter, tmp_path, shards=shards, key="ballad")) is None
    assert SILENT in capsys.readouterr().err


def tritone_harmoniser(folder: Path) -> Path:
    """One that hears a major chord six semitones above the scale that is sung, whatever that is."""
    network = HarmonyNetwork(HarmonyShape(width=4, dilations=(1,)))
    with torch.no_grad():
        for weights in network.parameters():
            weights.zero_()
        network.chords.bias[6] = network.keys.bias[6] = 9.0
    save_harmony_network(folder, network)
    return folder


def test_an_adapters_own_harmoniser_tells_it_and_the_record_says_so(make_adapter, brief_vocal_file, tmp_path, capsys):
    own = {"harmoniser": harmony_network_hash(tritone_harmoniser(tmp_path / "tritone"))}
    adapter = make_adapter(CONTROL, **own)
    shutil.copytree(tmp_path / "tritone", adapter / "harmoniser")
    request = requested(adapter, tmp_path, vocal=brief_vocal_file, prompt="piano", infer_steps=1)
    made = play(request)
    record = json.loads(made.record.read_text())
    assert record["harmoniser"] == {"folder": (adapter / "harmoniser").as_posix(), "sha256": own["harmoniser"]}
    assert f"{INFERRED} by {adapter / 'harmoniser'}: " in capsys.readouterr().err
    sheet = read_lead_sheet(record["lead_sheet"])
    assert sheet.key is not None
    assert {one.chord.triad for one in sheet.chord_segments() if one.chord} == {sheet.key.tonic}
    shipped = sheet_of(replace(request, harmoniser=SHIPPED_HARMONISER))
    assert {one.chord for one in shipped.chord_segments()}.isdisjoint(one.chord for one in sheet.chord_segments())
    for flags in (["--adapter", adapter], ["--harmoniser", tmp_path / "tritone"]):
        with pytest.raises(SystemExit):
            run(app, ["lead-sheet", str(brief_vocal_file), *map(str, flags)])
        assert read_lead_sheet(capsys.readouterr().out).key == sheet.key
    told = play(replace(request, lead_sheet=made.lead_sheet, output_dir=tmp_path / "told"))
    assert "harmoniser" not in json.loads(told.record.read_text())
    region = {"again": made.record, "again_from": 0.2, "again_to": 0.8}
    again = play(replace(request, adapters=(), vocal=None, prompt=None, output_dir=tmp_path / "again", **region))
    assert json.loads(again.record.read_text())["harmoniser"] == record["harmoniser"]


def test_a_harmoniser_that_infers_nothing_says_so_and_one_that_is_none_is_refused(
    make_adapter, brief_vocal_file, sheet_file, tmp_path, capsys
):
    request = requested(make_adapter(CONTROL), tmp_path, vocal=brief_vocal_file, prompt="piano", infer_steps=1)
    played = replace(request, lead_sheet=sheet_file, harmoniser=SHIPPED_HARMONISER)
    assert sheet_of(played) == read_lead_sheet(TEXT)
    assert (
        f"--harmoniser {SHIPPED_HARMONISER}: infers nothing; there is a lead sheet already." in capsys.readouterr().err
    )
    with pytest.raises(UserError, match=r"music: no config\.json inside, so that it is no harmoniser\. Give a folder"):
        plan_generation(replace(request, harmoniser=tmp_path / "music"))


def test_a_vocal_that_does_not_count_tells_no_sheet(make_adapter, vocal_file, sheet_file, tmp_path, capsys):
    muted = requested(make_adapter(CONTROL), tmp_path, vocal=vocal_file, prompt="piano", ref_strength=0.0)
    assert sheet_of(muted) is None
    assert "lead sheet" not in capsys.readouterr().err
    assert sheet_of(replace(muted, lead_sheet=sheet_file)) == read_lead_sheet(TEXT)


def test_a_sheet_that_ends_early_and_one_that_no_adapter_takes_are_told(
    make_adapter, adapter, vocal_file, sheet_file, tmp_path, capsys
):
    request = requested(make_adapter(CONTROL), tmp_path, vocal=vocal_file, prompt="piano", lead_sheet=sheet_file)
    sheet_of(request)
    assert "elsewhere" not in capsys.readouterr().err
    sheet_file.write_text("bpm: 400\noffset: 0.1\n| C |\n")
    sheet_of(request)
    assert "the lead sheet has bars from 0.1 to 0.7 s of 1.5 s: " in capsys.readouterr().err
    sheet_file.write_text("key: A minor\n")
    sheet_of(request)
    assert "the lead sheet has no bars: the band follows its key and the vocal." in capsys.readouterr().err
    beside = tmp_path / "ballad_lead_sheet.txt"
    beside.write_text(TEXT)
    assert sheet_of(replace(request, adapters=(adapter,), lead_sheet=None)) is None
    assert f"{beside}: not used, {adapter} takes no lead sheet." in capsys.readouterr().err


def test_lab_gives_chords_alone(make_adapter, vocal_file, tmp_path):
    (tmp_path / "chords.lab").write_text("0.0 1.0 C:maj\n1.0 1.5 G:maj\n")
    request = requested(
        make_adapter(CONTROL), tmp_path, vocal=vocal_file, prompt="piano", lead_sheet=tmp_path / "chords.lab"
    )
    sheet = sheet_of(request)
    assert [(round(one.start, 2), one.chord.harte) for one in sheet.chord_segments()] == [
        (0.0, "C:maj"),
        (1.0, "G:maj"),
    ]
    assert {bar.confidence for bar in sheet.bars} == {0.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# nothing\n", '{path}: says nothing. Write bars such as "| C | Am7 | F G | C |" and a line "bpm: 112".'),
        ("| C |\n", '{path}, line 1: no tempo stands before the first bar. Write a line such as "bpm: 112" above it.'),
    ],
)
def test_a_file_that_says_nothing_or_nonsense_is_one_line_and_code_2(
    make_adapter, shards, sheet_file, tmp_path, capsys, content, message
):
    sheet_file.write_text(content)
    assert refused(make_adapter(CONTROL), shards, sheet_file, tmp_path, capsys) == message.format(path=sheet_file)


def test_an_adapter_that_takes_none_refuses_one(adapter, shards, sheet_file, tmp_path, capsys):
    assert refused(adapter, shards, sheet_file, tmp_path, capsys) == (
        f"--lead-sheet {sheet_file}: {adapter} takes no lead sheet. Train one with --set "
        "accompaniment.lead_sheet=true, or leave --lead-sheet out."
    )


def test_tempo_key_and_chords_change_the_sheet_or_make_one(make_adapter, shards, sheet_shards, tmp_path):
    adapter = make_adapter(CONTROL)
    changed = {"tempo": 120, "musical_key": "B minor", "chords": "| Bm | G . A . |"}
    bare = sheet_of(requested(adapter, tmp_path, shards=shards, key="ballad", **changed))
    assert write_lead_sheet(bare) == "key: B minor\ntime: 4/4\nbpm: 120\noffset: 0\n| Bm |\n"
    of_song = sheet_of(requested(adapter, tmp_path, shards=sheet_shards, key="ballad", musical_key="B minor"))
    before = sheet_of(requested(adapter, tmp_path, shards=sheet_shards, key="ballad"))
    assert of_song == before.model_copy(update={"key": bare.key})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tempo": 4.0}, "a tempo of 4 bpm is outside 20 to 400."),
        ({"musical_key": "H"}, "'H' is no key"),
        ({"chords": "| H |"}, "'H'"),
    ],
)
def test_a_change_that_is_none_is_refused_before_the_vocal_is_encoded(
    make_adapter, vocal_file, tmp_path, monkeypatch, changed, message
):
    monkeypatch.setattr(Session, "codec_encoder", lambda *_: pytest.fail("the vocal was encoded"))
    request = requested(make_adapter(CONTROL), tmp_path, vocal=vocal_file, prompt="piano", **changed)
    with pytest.raises(UserError, match=message):
        sheet_of(request)


def refused(adapter, shards, sheet_file, tmp_path, capsys):
    command = ["generate", "--adapter", adapter, "--shards", shards, "--key", "ballad", "--lead-sheet", sheet_file]
    with pytest.raises(SystemExit) as stopped:
        run(app, [str(word) for word in [*command, "--checkpoint-dir", "tiny", "--output-dir", tmp_path / "out"]])
    assert stopped.value.code == 2
    assert not (tmp_path / "out" / "ballad.json").exists()
    return capsys.readouterr().err.removeprefix("error: ").removesuffix("\n")


@BOTH
def test_the_sheet_that_was_followed_lies_beside_and_plays_again(
    make_adapter, sheet_shards, sheet_file, tmp_path, conditioning
):
    of_song = {"shards": sheet_shards, "key": "ballad"}
    request = requested(make_adapter(conditioning), tmp_path, **of_song)
    first = play(request)
    written = tmp_path / "out" / "ballad_lead_sheet.txt"
    assert json.loads(first.record.read_text())["lead_sheet"] == written.read_text()
    again = play(replace(request, lead_sheet=written, output_dir=tmp_path / "again"))
    assert again.accompaniments[0].read_bytes() == first.accompaniments[0].read_bytes()
    written.write_text(OTHER)
    edited = play(replace(request, lead_sheet=written, output_dir=tmp_path / "edited"))
    assert edited.accompaniments[0].read_bytes() != first.accompaniments[0].read_bytes()
    beside = play(replace(request, lead_sheet=sheet_file))  # another sheet is another run
    assert beside.record.name == "ballad_2.json"
    assert (tmp_path / "out" / "ballad_2_lead_sheet.txt").read_text() == TEXT


@BOTH
def test_without_sheet_and_vocal_it_is_text2music(make_adapter, shards, sheet_file, tmp_path, conditioning):
    """Also where the adapter holds an encoder; with a sheet and no vocal the band follows the sheet."""
    of_song = {"shards": shards, "key": "ballad", "ref_strength": 0.0, "lora_weights": (0.0,)}
    with_encoder = play(requested(make_adapter(conditioning), tmp_path, **of_song))
    bare = Conditioning(source_projection=False, a_max=0.0)
    plain = play(requested(make_adapter(bare), tmp_path, output_dir=tmp_path / "plain", **of_song))
    assert with_encoder.accompaniments[0].read_bytes() == plain.accompaniments[0].read_bytes()
    told = play(
        requested(make_adapter(conditioning), tmp_path, output_dir=tmp_path / "told", lead_sheet=sheet_file, **of_song)
    )
    assert told.accompaniments[0].read_bytes() != plain.accompaniments[0].read_bytes()


def test_windows_of_a_long_song_get_their_part_of_the_sheet(make_adapter, shards, sheet_file, tmp_path, monkeypatch):
    """What an encoder is given in each window is what the whole sheet says of its frames."""
    session = Session()
    plan = plan_generation(
        requested(make_adapter(CONTROL), tmp_path, shards=shards, key="hymn", lead_sheet=sheet_file, infer_steps=1)
    )
    whole = lead_sheet_features(read_lead_sheet(TEXT), 2700, 44_100 / 4096)
    seen = []

    def noted(source, timestep):
        seen.append(source.lead_sheet)
        return {}

    with read_inputs(plan, session) as inputs:
        sampler = session.sampler(plan.runtime, plan.selection.folders, plan.selection.weights)
        assert isinstance(sampler, AccompanimentSampler)
        assert isinstance(sampler.adapters.conditioner, torch.nn.Module)
        monkeypatch.setattr(sampler.adapters.conditioner.lead_sheet, "injections", noted)
        session.draw(plan, inputs.vocal, inputs.text)
    first, second = seen[:2]
    assert first.shape[1] == second.shape[1] > 1350
    np.testing.assert_array_equal(first[0].numpy(), whole[: first.shape[1]])
    np.testing.assert_array_equal(second[0].numpy(), whole[-second.shape[1] :])
