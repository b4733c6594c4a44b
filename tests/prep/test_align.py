from typing import cast

import numpy as np
import pytest

from common.tape import Tape
from prep.align import align, offset_seconds
from prep.encode import decoded
from prep.segment import Span
from shards.schema import Part, SongError


def later(wave, samples):
    return np.concatenate([np.zeros((2, samples), np.float32), wave], axis=1)


@pytest.fixture
def aligned(tape):
    """aligned(vocal=wave, mix=wave) gives the tracks of these stems."""
    return lambda **given: align({cast(Part, part): tape(wave) for part, wave in given.items()})


def whole_of(tracks):
    return tracks.piece(Span(0, tracks.samples))


def test_a_missing_part_makes_the_three_sum(music, aligned):
    whole = music(1.0)
    for missing in ("vocal", "inst", "mix"):
        given = {part: wave for part, wave in vars(whole).items() if part != missing}
        tracks = aligned(**given)
        assert (tracks.derived, tracks.residual_db) == (missing, None)
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
    tracks = aligned(vocal=whole.vocal, inst=whole.inst, mix=whole.mix * np.float32(1.1))
    assert tracks.derived is None
    assert tracks.residual_db == pytest.approx(20 * np.log10(0.1 / 1.1), abs=0.01)


@pytest.mark.parametrize("samples", [0, 200, 441])
def test_small_offsets_pass(music, aligned, samples):
    whole = music(3.0)
    aligned(vocal=whole.vocal, mix=later(whole.mix, samples))


@pytest.mark.parametrize("samples", [529, 1105, 20_000])
def test_larger_offsets_are_misaligned(music, tape, aligned, samples):
    """529 and 1105 samples are what decoders of MP3 disagree by."""
    whole = music(3.0)
    for part in ("vocal", "inst"):
        assert offset_seconds(tape(vars(whole)[part]), tape(later(whole.mix, samples))) == pytest.approx(
            samples / 44_100
        )
    with pytest.raises(SongError) as raised:
        aligned(inst=whole.inst, mix=later(whole.mix, samples))
    assert raised.value.reason == "misaligned"
    expected = f"its inst lies {samples / 44.1:.0f} ms later in the mix (at most 10 ms is allowed)."
    assert str(raised.value) == expected
    with pytest.raises(SongError, match=r"its vocal lies .* ms earlier in the mix"):
        aligned(vocal=later(whole.vocal, samples), mix=whole.mix)


def test_lengths_may_differ_by_half_a_second(music, aligned):
    whole = music(2.0)
    assert aligned(vocal=whole.vocal[:, :-20_000], mix=whole.mix).samples == whole.mix.shape[1] - 20_000
    with pytest.raises(SongError) as raised:
        aligned(vocal=whole.vocal[:, :-30_000], mix=whole.mix)
    assert str(raised.value) == "its files differ in length by 0.68 s (at most 0.5 s is allowed)."


def test_a_silent_stem_has_no_offset(music, tape):
    whole = music(1.0)
    assert offset_seconds(tape(np.zeros_like(whole.vocal)), tape(whole.mix)) == 0.0


def test_real_stems_are_aligned_and_shifted_ones_are_not(shared_audio, tape):
    for key in ("sodium", "caesium", "vocadito10", "fishin_est", "amazing_grace_synth"):
        vocal, inst, mix = (
            Tape().extend(decoded(shared_audio / "stems" / f"{key}_{part}.flac")) for part in ("vocal", "inst", "mix")
        )
        assert offset_seconds(vocal, mix) == offset_seconds(inst, mix) == 0.0
        shifted = tape(later(mix.read(0, mix.samples), 1105))
        assert offset_seconds(vocal, shifted) == pytest.approx(1105 / 44_100, abs=1e-4)
