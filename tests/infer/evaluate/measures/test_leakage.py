"""Both measures rise with the voice that is left in a band; the fine structure also finds one that a codec rewrote."""

import numpy as np
import pytest

from common.audio.leakage import projection_db
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.leakage import fine_structure_excess, measure_leakage

LEAKS_DB = (-30, -20, -10, 0)


def leaking(song, leak_db: float | None, voice: np.ndarray | None = None) -> Clip:
    """The band with the vocal in it, at so many dB over the band's RMS."""
    if leak_db is None:
        return song.band
    voice = song.vocal.wave if voice is None else voice
    level = np.sqrt(np.mean(song.band.wave**2) / np.mean(voice**2)) * 10 ** (leak_db / 20)
    return Clip(song.band.wave + np.float32(level) * voice)


def test_both_measures_rise_with_the_level_of_the_leak(songs):
    rows = [[measure_leakage(song.vocal, leaking(song, db)) for db in (None, *LEAKS_DB)] for song in songs[:5]]
    fine = np.array([[leak.fine for leak in row] for row in rows])
    projection = np.array([[leak.projection_db for leak in row] for row in rows])
    assert (np.diff(fine.mean(axis=0)) > 0).all()
    assert (np.diff(projection.mean(axis=0)) > 0).all()
    assert (np.diff(fine, axis=1) > 0).all(), "on every song"
    assert fine[:, 0].mean() < 0.05
    assert fine[:, 2].min() > fine[:, 0].mean() + 0.03


def test_fine_structure_finds_a_voice_whose_phases_are_lost(songs, lose_phases):
    found = [
        [fine_structure_excess(song.vocal.mono, leaking(song, db, voice).mono) for db in (None, *LEAKS_DB)]
        for song, voice in ((song, lose_phases(song.vocal.wave)) for song in songs[:5])
    ]
    assert (np.diff(np.mean(found, axis=0)) > 0).all()


def test_a_copied_voice_is_all_voice_and_noise_is_none(songs, noises):
    copied, noise = (measure_leakage(songs[0].vocal, band) for band in (songs[0].vocal, noises[0]))
    assert copied.projection_db == pytest.approx(0.0, abs=0.1)
    assert copied.fine > 0.5
    assert noise.projection_db < -35
    assert abs(noise.fine) < 0.01


@pytest.mark.parametrize("delay", [-100, 0, 100])
def test_a_voice_through_a_short_filter_is_found_whole(songs, delay):
    voice = songs[0].vocal.mono
    assert projection_db(voice, 0.3 * np.roll(voice, delay)) == pytest.approx(0.0, abs=0.1)


def test_neither_measure_depends_on_levels(songs):
    leak, louder = (measure_leakage(songs[1].vocal, Clip(gain * songs[1].band.wave)) for gain in (1.0, 0.1))
    assert louder.fine == pytest.approx(leak.fine, abs=1e-4)
    assert louder.projection_db == pytest.approx(leak.projection_db, abs=1e-3)


def test_silence_leaks_nothing(songs):
    silent = measure_leakage(songs[0].vocal, Clip(np.zeros_like(songs[0].vocal.wave)))
    assert silent.fine == pytest.approx(0.0, abs=1e-6)
    assert silent.projection_db == pytest.approx(-60.0)
