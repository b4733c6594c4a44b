import numpy as np
import pytest

from common.audio.disk_wave import BLOCK_SAMPLES, DiskWave
from common.bases import ACE_STEP_1
from infer.audio.splice import FADE_SECONDS, Region, spliced

RATE_HZ = 48_000
SAMPLES = BLOCK_SAMPLES + 48_000


@pytest.fixture
def waves():
    random = np.random.default_rng(1)
    with DiskWave(RATE_HZ) as kept, DiskWave(RATE_HZ) as made:
        for wave in (kept, made):
            wave.append(random.standard_normal((2, SAMPLES)).astype(np.float32))
        yield kept, made


def together(waves, region):
    return np.concatenate(list(spliced(*waves, region)), axis=1)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.9), (0.0, 2.0), (5.0, 6.2), (3.0, SAMPLES / RATE_HZ)])
def test_a_wave_is_itself_outside_a_region_and_the_other_one_within(waves, start, end):
    kept, made = (wave.read(0, SAMPLES) for wave in waves)
    result, first, last = together(waves, Region(start, end)), round(start * RATE_HZ), round(end * RATE_HZ)
    assert np.array_equal(result[:, :first], kept[:, :first])
    assert np.array_equal(result[:, last:], kept[:, last:])
    fade = round(FADE_SECONDS * RATE_HZ)
    begin, stop = (first + fade if first else 0), (last - fade if last < SAMPLES else SAMPLES)
    assert np.array_equal(result[:, begin:stop], made[:, begin:stop])


def test_one_gives_way_to_the_other_evenly():
    with DiskWave(RATE_HZ) as kept, DiskWave(RATE_HZ) as made:
        kept.append(np.zeros((2, RATE_HZ), dtype=np.float32))
        made.append(np.ones((2, RATE_HZ), dtype=np.float32))
        share = together((kept, made), Region(0.25, 0.75))[0]
    assert np.diff(share).max() == pytest.approx(1 / (FADE_SECONDS * RATE_HZ), rel=1e-3)
    assert share == pytest.approx(share[::-1], abs=1e-6)
    assert share.mean() == pytest.approx(0.5 - FADE_SECONDS)


def test_a_region_has_every_frame_that_it_touches():
    frame = ACE_STEP_1.latents.frame_samples / ACE_STEP_1.latents.sample_rate_hz
    assert Region(1.5 * frame, 3.2 * frame).frames(ACE_STEP_1.latents) == slice(1, 4)
    assert Region(0.0, 3.0 * frame - 1e-9).frames(ACE_STEP_1.latents) == slice(0, 3)
