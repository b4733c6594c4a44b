"""The made-up world keeps its own rules, and what sounds is what the truth says."""

from functools import cache

import numpy as np
import pytest

from common.music.chord import TONICS
from prep.made_up.drums import play_drums
from prep.made_up.folder import HELD_OUT_SEED
from prep.made_up.melody import compose
from prep.made_up.render import MadeUpSong, render_song, render_vocal
from prep.made_up.truth import SongTruth, tell_truth
from prep.made_up.world import INSTRUMENTS, PULSING, SCALES, draw_world

RATE_HZ = 44_100
SECONDS = 7.0
RENDERED = range(HELD_OUT_SEED, HELD_OUT_SEED + 4)
MANY = range(300)


@cache
def rendered(seed: int) -> MadeUpSong:
    return render_song(seed, SECONDS)


@cache
def truth_of(seed: int, seconds: float = 40.0) -> SongTruth:
    world = draw_world(seed, seconds)
    return tell_truth(world, compose(world))


def triad(label: str) -> tuple[int, int, int]:
    root, quality = label.split(":")
    first = TONICS.index(root)
    return first, (first + (4 if quality == "maj" else 3)) % 12, (first + 7) % 12


def chord_at(truth: SongTruth, seconds: float) -> str:
    return next(chord.label for chord in truth.chords if chord.start <= seconds < chord.end)


def test_everything_that_can_be_drawn_is_drawn():
    truths = [truth_of(seed) for seed in MANY]
    assert {truth.key for truth in truths} == set(TONICS)
    assert {truth.mode for truth in truths} == {"major", "minor"}
    assert {truth.singer for truth in truths} == {"female", "male"}
    assert {truth.tempo_bpm for truth in truths} == set(range(76, 149, 4))
    assert {name for truth in truths for name in truth.instruments} == {*INSTRUMENTS, "bass", "drums"}


def test_without_drums_some_instrument_keeps_the_beat():
    quiet = [truth_of(seed) for seed in MANY if "drums" not in truth_of(seed).instruments]
    assert len(quiet) > len(MANY) / 10
    assert all(set(truth.instruments) & set(PULSING) for truth in quiet)


@pytest.mark.parametrize("seed", range(8))
def test_beats_bars_chords_and_sections_agree(seed):
    truth = truth_of(seed)
    np.testing.assert_allclose(np.diff(truth.beats), 60 / truth.tempo_bpm, atol=2e-6)
    np.testing.assert_allclose(np.diff(truth.downbeats), 4 * 60 / truth.tempo_bpm, atol=2e-6)
    assert set(truth.downbeats) <= set(truth.beats)
    for spans in (truth.chords, truth.sections):
        assert spans[0].start == 0.0
        assert spans[-1].end == truth.seconds
        assert [span.end for span in spans[:-1]] == [span.start for span in spans[1:]]
        assert {span.start for span in spans[1:]} <= set(truth.downbeats)
    scale = {(TONICS.index(truth.key) + rise) % 12 for rise in SCALES[truth.mode]}
    assert all(set(triad(chord.label)) <= scale for chord in truth.chords)


@pytest.mark.parametrize("seed", range(8))
def test_verse_and_chorus_have_their_own_chords(seed):
    truth = truth_of(seed)
    chords = {
        section.name: tuple(chord_at(truth, start) for start in truth.downbeats if section.start <= start < section.end)
        for section in truth.sections
        if section.name in ("verse", "chorus") and section.end < truth.seconds
    }
    assert len(chords["verse"]) == len(chords["chorus"]) == 4
    assert chords["verse"] != chords["chorus"]


@pytest.mark.parametrize("seed", range(8))
def test_melody_follows_scale_and_chords(seed):
    truth = truth_of(seed)
    scale = {(TONICS.index(truth.key) + rise) % 12 for rise in SCALES[truth.mode]}
    assert {note.midi % 12 for note in truth.notes} <= scale
    strong = [t for t, place in zip(truth.beats, _places_in_bar(truth), strict=True) if place in (0, 2)]
    on_strong = [note for note in truth.notes if np.abs(np.subtract(strong, note.start)).min() < 0.02]
    assert len(on_strong) > len(truth.notes) / 4
    assert all(note.midi % 12 in triad(chord_at(truth, note.start + 0.02)) for note in on_strong)


def _places_in_bar(truth: SongTruth) -> np.ndarray:
    return np.round(np.subtract(truth.beats, truth.downbeats[0]) * truth.tempo_bpm / 60).astype(int) % 4


@pytest.mark.parametrize("seed", range(8))
def test_singer_rests_between_phrases_and_where_the_band_plays_alone(seed):
    truth = truth_of(seed)
    gaps = [after.start - note.end for note, after in zip(truth.notes, truth.notes[1:], strict=False)]
    assert sum(gap > 60 / truth.tempo_bpm for gap in gaps) >= 4
    for section in truth.sections:
        if section.name in ("intro", "inst"):
            assert not any(section.start + 0.05 < note.start < section.end - 0.05 for note in truth.notes)


def test_a_longer_song_starts_with_the_same_melody():
    short, long = (truth_of(3, seconds) for seconds in (20.0, 40.0))
    lead_seconds = long.notes[0].start - short.notes[0].start
    for one, other in zip(short.notes[:-1], long.notes, strict=False):
        assert (one.midi, one.syllable) == (other.midi, other.syllable)
        assert other.start - one.start == pytest.approx(lead_seconds, abs=1e-5)


@pytest.mark.parametrize("seed", RENDERED)
def test_the_band_strikes_on_the_beat(seed):
    song = rendered(seed)
    strength = _rises(song.inst)
    beat_seconds = 60 / song.truth.tempo_bpm
    beats = np.array(song.truth.beats)[1:-1]
    on = np.mean([_strongest(strength, t) for t in beats])
    beside = np.mean([_strongest(strength, t + beat_seconds / 4) for t in beats])
    assert on > 3 * beside


def _rises(samples: np.ndarray) -> np.ndarray:
    """How much the spectrum rises, 100 times a second."""
    hop = RATE_HZ // 100
    windows = np.lib.stride_tricks.sliding_window_view(samples.mean(axis=0), 1024)[::hop] * np.hanning(1024)
    levels = np.log(np.abs(np.fft.rfft(windows)) + 0.1)
    return np.maximum(np.diff(levels, axis=0), 0).sum(axis=1)


def _strongest(strength: np.ndarray, seconds: float) -> float:
    frame = round(seconds * 100)
    return float(strength[frame - 3 : frame + 4].max())


@pytest.mark.parametrize("seed", RENDERED)
def test_the_band_plays_the_chords(seed):
    song = rendered(seed)
    long = [chord for chord in song.truth.chords if chord.end - chord.start > 1.0]
    found = [_loudest_triad(song.inst[:, round(c.start * RATE_HZ) : round(c.end * RATE_HZ)]) for c in long]
    assert found == [set(triad(chord.label)) for chord in long]


def _loudest_triad(samples: np.ndarray) -> set[int]:
    """Of all major and minor triads, the one whose pitch classes hold the most of the spectrum from 60 to 1000 Hz."""
    spectrum = np.abs(np.fft.rfft(samples.mean(axis=0)))
    hertz = np.fft.rfftfreq(samples.shape[1], 1 / RATE_HZ)
    inside = (hertz > 60) & (hertz < 1000)
    classes = np.round(12 * np.log2(hertz[inside] / 440) + 69).astype(int) % 12
    chroma = np.bincount(classes, spectrum[inside], 12)
    labels = [f"{root}:{quality}" for root in TONICS for quality in ("maj", "min")]
    return set(triad(max(labels, key=lambda label: chroma[list(triad(label))].sum())))


@pytest.mark.parametrize("seed", RENDERED)
def test_the_singer_sings_the_notes(seed):
    song = rendered(seed)
    for note in song.truth.notes:
        vowel = song.vocal.mean(axis=0)[round((note.start + 0.03) * RATE_HZ) : round((note.end - 0.02) * RATE_HZ)]
        assert abs(_sung_midi(vowel) - note.midi) < 0.5, note


def _sung_midi(samples: np.ndarray) -> float:
    """Median pitch: in each window the first lag from 1/900 to 1/70 s that matches almost as well as the best one."""
    size, lags = 2048, np.arange(RATE_HZ // 900, RATE_HZ // 70)
    windows = np.lib.stride_tricks.sliding_window_view(samples, size)[::256]
    power = np.abs(np.fft.rfft(windows, 2 * size)) ** 2
    match = np.fft.irfft(power)[:, lags] / (size - lags)
    peak = (match > np.roll(match, 1, axis=1)) & (match >= np.roll(match, -1, axis=1))
    first = np.argmax(peak & (match > 0.85 * match.max(axis=1, keepdims=True)), axis=1)
    return float(np.median(69 + 12 * np.log2(RATE_HZ / lags[first] / 440)))


@pytest.mark.parametrize("seed", RENDERED)
def test_the_singer_is_silent_in_a_rest_and_a_little_louder_than_the_band_elsewhere(seed):
    song = rendered(seed)
    ends = [
        note.end
        for note, after in zip(song.truth.notes, song.truth.notes[1:], strict=False)
        if after.start - note.end > 0.9
    ]
    sung = np.zeros(song.vocal.shape[1], dtype=bool)
    for note in song.truth.notes:
        sung[round(note.start * RATE_HZ) : round(note.end * RATE_HZ)] = True
    vocal, inst = (np.sqrt(np.mean(part[:, sung] ** 2)) for part in (song.vocal, song.inst))
    assert -0.7 < 20 * np.log10(vocal / inst) < 3.7
    for end in ends:
        assert np.abs(song.vocal[:, round((end + 0.4) * RATE_HZ) : round((end + 0.5) * RATE_HZ)]).max() < 1e-3


def test_a_vocal_alone_is_that_of_the_song_but_for_its_gain():
    song = rendered(RENDERED[0]).vocal
    alone = render_vocal(RENDERED[0], SECONDS)
    gain = float((song * alone).sum() / (alone**2).sum())
    assert song == pytest.approx(gain * alone, abs=2.0**-15)


@pytest.mark.parametrize("seed", RENDERED)
def test_the_sound_is_stereo_and_level(seed):
    song = rendered(seed)
    for part in (song.vocal, song.inst):
        assert part.dtype == np.float32
        assert 0.3 < np.corrcoef(part)[0, 1] < 0.9999
        left, right = np.sqrt(np.mean(part**2, axis=1))
        assert abs(20 * np.log10(left / right)) < 2
        assert abs(part.mean()) < 1e-3


def test_a_band_without_drums_has_none():
    for seed in range(20):
        world = draw_world(seed, 3.0)
        assert bool(play_drums(world, 3 * RATE_HZ).any()) == ("drums" in world.players)
