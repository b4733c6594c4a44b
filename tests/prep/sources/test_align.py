from typing import cast

import numpy as np
import pytest

from common.audio.disk_wave import DiskWave
from prep.config import StemsConfig
from prep.encoding.encode import decoded
from prep.sources.align import align
from prep.sources.fit import fit_stem, likely_lags
from prep.sources.segment import SampleSpan
from shards.rejection import SongError
from shards.schema import Part


def later(wave, samples):
    return np.concatenate([np.zeros((2, samples), np.float32), wave], axis=1)


@pytest.fixture
def aligned(disk_wave):
    """aligned(vocal=wave, mix=wave) gives the tracks of these stems."""
    return lambda **given: align(
        {cast(Part, part): disk_wave(wave) for part, wave in given.items()},
        StemsConfig(),
        lambda: disk_wave(np.empty((2, 0))),
    )


def whole_of(tracks):
    return tracks.piece(SampleSpan(0, tracks.samples))


def test_a_missing_part_makes_the_three_sum(music, aligned):
    whole = music(1.0)
    for missing in ("vocal", "inst", "mix"):
        given = {part: wave for part, wave in vars(whole).items() if part != missing}
        tracks = aligned(**given)
        assert (tracks.derived, tracks.residual_db, tracks.notes) == (missing, None, ())
        parts = whole_of(tracks)
        for part, wave in given.items():
            np.testing.assert_array_equal(getattr(parts, part), wave)
        np.testing.assert_allclose(getattr(parts, missing), getattr(whole, missing), atol=1e-7)


def test_the_instrumental_is_exactly_mix_minus_vocal(music, aligned):
    whole = music(1.0)
    parts = whole_of(aligned(vocal=whole.vocal, mix=whole.mix))
    np.testing.assert_array_equal(parts.inst, parts.mix - parts.vocal)


def test_blocks_join_to_the_song(music, aligned):
    whole = music(15.0)
    tracks = aligned(vocal=whole.vocal, mix=whole.mix[:, :-1000])
    blocks = list(tracks.blocks())
    assert len(blocks) > 2
    joined = np.concatenate([tracks.part("inst", block) for block in blocks], axis=1)
    np.testing.assert_array_equal(joined, (whole.mix - whole.vocal)[:, :-1000])


def test_what_three_stems_leave_over_is_measured(music, aligned):
    whole = music(7.0)
    hiss = 0.003 * np.random.default_rng(1).normal(size=whole.mix.shape).astype(np.float32)
    tracks = aligned(vocal=whole.vocal, inst=whole.inst, mix=whole.mix + hiss)
    assert (tracks.derived, tracks.notes) == (None, ())
    expected = 20 * np.log10(np.std(hiss) / np.sqrt(np.mean((whole.mix + hiss) ** 2)))
    assert tracks.residual_db == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("samples", [529, 1105, 2200])
def test_stems_a_little_early_or_late_are_moved_to_where_the_mix_has_them(music, aligned, samples):
    """529 and 1105 samples are what decoders of MP3 disagree by."""
    whole = music(3.0)
    for part, other in (("vocal", "inst"), ("inst", "vocal")):
        tracks = aligned(**{part: vars(whole)[part], "mix": later(whole.mix, samples)})
        (note,) = tracks.notes
        assert (note.part, note.inverted, note.gain_db) == (part, False, 0.0)
        assert note.delay_ms == pytest.approx(samples / 44.1, abs=0.002)
        left = getattr(whole_of(tracks), other)[:, samples:]
        np.testing.assert_allclose(left, vars(whole)[other][:, : left.shape[1]], atol=1e-6)
    (note,) = aligned(vocal=later(whole.vocal, samples), mix=whole.mix).notes
    assert note.delay_ms == pytest.approx(-samples / 44.1, abs=0.002)


@pytest.mark.parametrize("samples", [2300, 20_000])
def test_larger_offsets_are_misaligned(music, disk_wave, aligned, samples):
    whole = music(3.0)
    for part in ("vocal", "inst"):
        assert samples in likely_lags(disk_wave(vars(whole)[part]), disk_wave(later(whole.mix, samples)))
    with pytest.raises(SongError) as raised:
        aligned(inst=whole.inst, mix=later(whole.mix, samples))
    assert raised.value.reason == "misaligned"
    expected = f"its inst lies {samples / 44.1:.0f} ms later in the mix (at most 50 ms is mended)."
    assert str(raised.value) == expected
    with pytest.raises(SongError, match=r"its vocal lies .* ms earlier in the mix"):
        aligned(vocal=later(whole.vocal, samples), mix=whole.mix)


def test_lengths_may_differ_by_half_a_second(music, aligned):
    whole = music(2.0)
    assert aligned(vocal=whole.vocal[:, :-20_000], mix=whole.mix).samples == whole.mix.shape[1] - 20_000
    with pytest.raises(SongError) as raised:
        aligned(vocal=whole.vocal[:, :-30_000], mix=whole.mix)
    assert str(raised.value) == "its files differ in length by 0.68 s (at most 0.5 s is allowed)."


@pytest.mark.parametrize("samples", [1, 300, 44_100])
def test_a_silent_stem_is_nowhere_and_nothing_is_made_of_it(music, disk_wave, aligned, samples):
    whole = music(1.0)
    silent = np.zeros_like(whole.vocal[:, :samples])
    assert not fit_stem(disk_wave(silent), disk_wave(whole.mix[:, :samples])).is_found
    tracks = aligned(vocal=silent, mix=whole.mix[:, :samples])
    np.testing.assert_array_equal(whole_of(tracks).inst, whole.mix[:, :samples])


@pytest.mark.parametrize(
    "key",
    [
        "sodium",
        "amazing_grace_synth",
        *(pytest.param(key, marks=pytest.mark.slow) for key in ("caesium", "vocadito10", "fishin_est")),
    ],
)
def test_real_stems_are_aligned_and_shifted_ones_are_not(shared_audio, disk_wave, key):
    def tracks_of(**given: DiskWave):
        return align(cast(dict[Part, DiskWave], given), StemsConfig(), lambda: disk_wave(np.empty((2, 0))))

    vocal, inst, mix = (
        disk_wave(np.empty((2, 0))).extend(decoded(shared_audio / "stems" / f"{key}_{part}.flac", 44_100))
        for part in ("vocal", "inst", "mix")
    )
    for given in ({"vocal": vocal, "mix": mix}, {"inst": inst, "mix": mix}, {"vocal": vocal, "inst": inst}):
        assert tracks_of(**given).notes == ()
    assert tracks_of(vocal=vocal, inst=inst, mix=mix).residual_db in (None, pytest.approx(-140, abs=5))
    shifted = disk_wave(later(mix.read(0, mix.samples), 1105))
    assert fit_stem(vocal, shifted).delay_samples == pytest.approx(1105, abs=0.02)
