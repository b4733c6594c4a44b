"""Stems that are not as they lie in their mix are mended or rejected with a true line; right ones are not touched."""

from typing import cast

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from common.audio.wave import write_audio
from common.bases import ACE_STEP_1
from prep.config import PrepConfig, StemsConfig
from prep.made_up.render import render_song
from prep.reports.status import lines, status, survey
from prep.sources.align import align
from prep.sources.segment import SampleSpan
from shards.reader import read_song
from shards.rejection import SongError
from shards.schema import Part

LATENTS = ACE_STEP_1.latents

SEEDS = (7, 300, 5000)
PARTS: tuple[str, ...] = ("vocal", "inst", "mix")


def delayed(wave, samples):
    """A wave some samples, or parts of one, later."""
    turns = np.exp(-2j * np.pi * np.fft.rfftfreq(wave.shape[1] + 4096) * samples)
    return np.fft.irfft(np.fft.rfft(wave, wave.shape[1] + 4096) * turns)[:, : wave.shape[1]].astype(np.float32)


def normalised(wave):
    return wave * np.float32(0.98 / np.abs(wave).max())


def one_channel(wave):
    return wave * np.array([[0], [1]], np.float32)


def limited(mix):
    """As a master: 3 dB louder, and turned down where its peaks would pass those of before."""
    loud, peak = 1.4 * mix, np.abs(mix).max()
    level = scipy.ndimage.maximum_filter1d(np.abs(loud).max(axis=0), 2000)
    gain = scipy.ndimage.uniform_filter1d(np.minimum(1, peak / np.maximum(level, 1e-6)), 2000)
    return (loud * gain).astype(np.float32)


def brightened(mix):
    """A shelf of 3 dB above 4 kHz."""
    high = scipy.signal.lfilter(*scipy.signal.butter(1, 4000, "high", fs=LATENTS.sample_rate_hz), mix, axis=1)
    return (mix + 0.4 * high).astype(np.float32)


def with_room(vocal):
    rng = np.random.default_rng(0)
    echo = rng.normal(size=(2, 20_000)) * np.exp(-np.arange(20_000) / 4000)
    echo *= 0.2 / np.sqrt(np.sum(echo**2, axis=1, keepdims=True))
    return vocal + scipy.signal.oaconvolve(vocal, echo, axes=1)[:, : vocal.shape[1]].astype(np.float32)


OFF = {
    "inverted": lambda wave: -wave,
    "normalised": normalised,
    "a third": lambda wave: wave * np.float32(1 / 3),
    "a millisecond late": lambda wave: delayed(wave, 44.1),
    "a part of a sample early": lambda wave: delayed(wave, -0.6),
    "all of it": lambda wave: -normalised(delayed(wave, 30.4)),
}


@pytest.fixture(scope="module")
def songs():
    return {seed: render_song(seed, 8.0) for seed in SEEDS}


@pytest.fixture(scope="module")
def waves(songs):
    """waves(seed) gives a made-up song's three parts by name."""
    return lambda seed: {part: getattr(songs[seed], part) for part in PARTS}


@pytest.fixture
def aligned(disk_wave):
    """aligned(waves, ...) gives the tracks of these stems."""

    def run(given, **config):
        return align(
            {cast(Part, part): disk_wave(wave) for part, wave in given.items()},
            StemsConfig(**config),
            lambda: disk_wave(np.empty((2, 0))),
        )

    return run


def left_db(tracks, part, true):
    """What a part of the tracks holds beyond the true one, against that; without the ends, where a moved stem stops."""
    inner = slice(4096, tracks.samples - 4096)
    found = tracks.part(part, SampleSpan(0, tracks.samples))[:, inner]
    return 20 * np.log10(np.linalg.norm(found - true[:, inner]) / np.linalg.norm(true[:, inner]) + 1e-9)


def reason_of(aligned, given, **config):
    with pytest.raises(SongError) as raised:
        aligned(given, **config)
    return raised.value.reason, str(raised.value)


@pytest.mark.parametrize("seed", SEEDS)
def test_right_stems_are_kept_bit_by_bit(aligned, waves, seed):
    whole = waves(seed)
    for missing in (*PARTS, None):
        given = {part: wave for part, wave in whole.items() if part != missing}
        tracks = aligned(given)
        assert tracks.notes == ()
        assert tracks.leak_db < -14
        for part, wave in given.items():
            np.testing.assert_array_equal(tracks.part(part, SampleSpan(0, tracks.samples)), wave)


@pytest.mark.parametrize("fault", OFF)
@pytest.mark.parametrize("stem", ["vocal", "inst"])
def test_one_gain_sign_and_delay_are_mended_and_noted(aligned, waves, stem, fault):
    other = {"vocal": "inst", "inst": "vocal"}[stem]
    whole = waves(7)
    tracks = aligned({stem: OFF[fault](whole[stem]), "mix": whole["mix"]})
    assert left_db(tracks, other, whole[other]) < -35
    assert left_db(tracks, stem, whole[stem]) < -35
    (note,) = tracks.notes
    assert (note.part, note.inverted) == (stem, fault in ("inverted", "all of it"))


def test_a_note_says_what_was_done(aligned, waves):
    whole = waves(7)
    tracks = aligned({"vocal": -2 * delayed(whole["vocal"], 44.1), "mix": whole["mix"]})
    (note,) = tracks.notes
    assert note.gain_db == pytest.approx(-6.02, abs=0.05)
    assert note.delay_ms == pytest.approx(-1.0, abs=0.001)
    expected = "its vocal was turned over and lowered by 6.0 dB and moved 1.00 ms earlier to lie as in its mix."
    assert note.sentence == expected


def test_both_stems_of_three_are_mended(aligned, waves):
    whole = waves(7)
    tracks = aligned({"vocal": -whole["vocal"], "inst": normalised(whole["inst"]), "mix": whole["mix"]})
    assert {note.part for note in tracks.notes} == {"vocal", "inst"}
    assert tracks.residual_db < -60


@pytest.mark.parametrize("seed", [SEEDS[0], pytest.param(SEEDS[1], marks=pytest.mark.slow)])
def test_mastered_mixes_and_room_are_kept(aligned, waves, seed):
    whole = waves(seed)
    for mix in (limited(whole["mix"]), brightened(whole["mix"]), with_room(whole["vocal"]) + whole["inst"]):
        assert aligned({"vocal": whole["vocal"], "mix": mix}).leak_db < -10
        assert aligned({**whole, "mix": mix}).residual_db < -9


def test_stems_of_another_song_are_rejected(aligned, waves):
    one, other = waves(7), waves(300)
    for stem in ("vocal", "inst"):
        reason, line = reason_of(aligned, {stem: other[stem], "mix": one["mix"]})
        assert reason == "leak"
        assert line.startswith(f"its {stem} is not found in its mix: -")
        assert line.endswith("is still that (at most -10 dB, stems.max_leak_db). Give the stem of this song.")
        reason, line = reason_of(aligned, {**one, stem: other[stem]})
        assert reason == "no_sum"
        assert line.startswith(f"its {stem} is not found in its mix: its vocal and inst leave ")
        assert aligned({**one, stem: other[stem]}, max_residual_db=20.0).residual_db > -9


@pytest.mark.parametrize("stem", ["vocal", "inst"])
def test_a_stem_with_a_silent_channel_is_rejected_with_the_way_out(aligned, waves, stem):
    whole = waves(7)
    line = f"its {stem}'s left channel is silent: "
    way = "; take the other with --set silent_channel=fill."
    for given in ({"mix": whole["mix"]}, whole):
        _, said = reason_of(aligned, {**given, stem: one_channel(whole[stem])})
        assert said.startswith(line)
        assert said.endswith(way)


def test_a_voice_that_the_mix_has_on_one_side_too_is_kept(aligned, waves):
    whole = waves(7)
    tracks = aligned({"vocal": one_channel(whole["vocal"]), "mix": one_channel(whole["vocal"]) + whole["inst"]})
    assert left_db(tracks, "inst", whole["inst"]) < -100


def test_an_inst_that_is_really_the_mix_is_rejected(aligned, waves):
    for seed in SEEDS:
        whole = waves(seed)
        for given in ({"vocal": whole["vocal"], "inst": whole["mix"]}, {"vocal": whole["mix"], "inst": whole["inst"]}):
            reason, line = reason_of(aligned, given)
            assert (reason, line[:26]) == ("leak", "its inst holds its vocal: ")
            assert line.endswith("If one of them is the mix, name it so.")


def test_exchanged_names_are_rejected_with_the_way_out(aligned, waves):
    whole = waves(7)
    exchanged = {"vocal": whole["inst"], "inst": whole["vocal"], "mix": whole["mix"]}
    for missing in (*PARTS, None):
        given = {part: wave for part, wave in exchanged.items() if part != missing}
        reason, line = reason_of(aligned, given)
        assert reason == "swapped"
        assert line.startswith("its vocal looks like a band and its inst like a voice (vocal with -")
        assert line.endswith("Exchange their names, or keep it with --set stems.swapped=keep.")
        assert aligned(given, swapped="keep").notes == ()


def write_pair(folder, key, vocal, mix):
    folder.mkdir(exist_ok=True)
    for part, wave in (("vocal", vocal), ("mix", mix)):
        write_audio(folder / f"{key}_{part}.wav", wave, LATENTS.sample_rate_hz, subtype="FLOAT")


def test_a_build_says_what_it_mended_and_status_says_it_again(tmp_path, waves, build, capsys):
    raw, whole = tmp_path / "raw", waves(7)
    write_pair(raw, "inverted", -whole["vocal"], whole["mix"])
    write_pair(raw, "one_side", one_channel(whole["vocal"]), one_channel(whole["vocal"]) + whole["inst"])
    write_pair(raw, "right", waves(300)["vocal"], waves(300)["mix"])
    build()
    said = capsys.readouterr().err
    mended = "its vocal was turned over to lie as in its mix."
    assert f"inverted: {mended}\none_side: its vocal's left channel is silent.\n" in said
    (sample,) = read_song(tmp_path / "shards", "inverted")
    (note,) = sample.meta.stems
    assert (note.part, note.inverted, note.gain_db, note.delay_ms) == ("vocal", True, 0.0, 0.0)
    assert sample.meta.leak_db is not None
    assert sample.meta.leak_db < -14
    plan = survey(raw, tmp_path / "shards", PrepConfig(), checkpoint="tiny", devices=("cpu",), ssl_folder=None).plan
    found = status(tmp_path / "shards", plan)
    assert found["fresh"] == ["inverted", "one_side", "right"]
    assert found["noted"] == {"inverted": mended, "one_side": "its vocal's left channel is silent."}
    assert f"  inverted: {mended}" in lines(found).splitlines()


def test_a_mended_stem_makes_the_samples_of_the_right_one(tmp_path, waves, build):
    whole = waves(7)
    write_pair(tmp_path / "raw", "song", whole["vocal"], whole["mix"])
    write_pair(tmp_path / "off", "song", -whole["vocal"], whole["mix"])
    build("right")
    build("mended", raw="off")
    ((right,), (mended,)) = (read_song(tmp_path / folder, "song") for folder in ("right", "mended"))
    assert right.meta.stems == ()
    for name, array in right.arrays().items():
        np.testing.assert_array_equal(mended.arrays()[name], array)


def test_a_silent_channel_is_filled_where_that_is_wanted(tmp_path, waves, build, config, capsys):
    voice = np.repeat(waves(7)["vocal"][1:], 2, axis=0)
    write_pair(tmp_path / "raw", "song", one_channel(voice), voice + waves(7)["inst"])
    with pytest.raises(Exception, match="silent_channel=fill"):
        build()
    build(config=config.model_copy(update={"silent_channel": "fill"}), rebuild=True)
    assert "song: its vocal's left channel was silent and is filled from the other." in capsys.readouterr().err
    (sample,) = read_song(tmp_path / "shards", "song")
    assert [(note.silent_channel, note.filled) for note in sample.meta.stems] == [("left", True)]
    assert sample.meta.leak_db is not None
    assert sample.meta.leak_db < -14
