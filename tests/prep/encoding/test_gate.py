import numpy as np
import pytest

from prep.encoding.gate import GATE_SAMPLES, bleed_db, gate_gains, gate_levels, gate_opening

SUNG = 22 * GATE_SAMPLES


@pytest.fixture
def stem():
    """A second of singing, then one of bleed 60 dB lower."""
    rng = np.random.default_rng(0)
    singing, bleed = (level * rng.normal(size=(2, SUNG)).astype(np.float32) for level in (0.2, 0.0002))
    return np.concatenate([singing, bleed], axis=1)


def test_the_gate_takes_bleed_and_leaves_singing(stem, disk_wave):
    opening = gate_opening(gate_levels(disk_wave(stem)), 40.0)
    gains = gate_gains(opening, 0, 2 * SUNG)
    assert (gains[:SUNG] == 1).all()
    assert not gains[SUNG + 2 * GATE_SAMPLES :].any()


def test_gains_of_a_piece_are_those_of_the_whole(stem, disk_wave):
    opening = gate_opening(gate_levels(disk_wave(stem)), 40.0)
    whole = gate_gains(opening, 0, 2 * SUNG)
    np.testing.assert_array_equal(gate_gains(opening, 1000, SUNG + 3333), whole[1000 : SUNG + 3333])


def test_bleed_is_the_share_of_the_band_where_nobody_sings(stem, disk_wave):
    """Singing does not count, however loud, nor the band beneath it."""
    rng = np.random.default_rng(1)
    band = np.repeat([0.5, 0.02], SUNG).astype(np.float32) * rng.normal(size=(2, 2 * SUNG)).astype(np.float32)
    vocal, mix = gate_levels(disk_wave(stem)), gate_levels(disk_wave(stem + band))
    assert bleed_db(vocal, mix, gate_opening(vocal, 40.0)) == pytest.approx(-40.0, abs=0.2)


def test_there_is_no_bleed_without_a_pause_or_without_a_band(stem, disk_wave):
    singing = gate_levels(disk_wave(stem[:, :SUNG]))
    assert bleed_db(singing, singing, gate_opening(singing, 40.0)) is None
    silent = gate_levels(disk_wave(np.concatenate([stem[:, :SUNG], np.zeros((2, SUNG), np.float32)], axis=1)))
    assert bleed_db(silent, silent, gate_opening(silent, 40.0)) is None
    nothing = gate_levels(disk_wave(np.zeros((2, SUNG), np.float32)))
    assert (gate_opening(nothing, 40.0) == 1).all()
