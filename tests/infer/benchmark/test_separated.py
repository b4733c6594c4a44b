"""Leakage by a separator: what is counted, by hand, and that more of the voice is more, by the tiny Demucs."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from infer.benchmark.measured import Heard
from infer.benchmark.separated import LEAST_DB, SEPARATED_DB, SeparatedLeakage, separated_db
from infer.evaluate.measures.clip import Clip
from models.loading.checkpoint import TINY
from prep.made_up.render import render_song

RATE_HZ = 44_100


def test_energy_is_compared_where_the_vocal_is_sung():
    sung = np.repeat([1.0, 0.0], RATE_HZ).astype(np.float32)
    vocal, band = (Clip(np.stack([wave, wave])) for wave in (sung, np.ones_like(sung)))
    half = Clip(0.5 * band.wave * sung + 7.0 * band.wave * (1 - sung))
    assert separated_db(vocal, band, half) == pytest.approx(-6.02, abs=0.01)
    assert separated_db(vocal, band, Clip(0 * band.wave)) == LEAST_DB
    assert separated_db(vocal, Clip(band.wave * (1 - sung)), half) is None


def test_more_of_the_voice_in_a_band_is_more_leakage():
    song = render_song(910_001, 3.0)
    vocal, true = Clip(song.vocal), Clip(song.inst)
    bands = [Clip(song.inst + share * song.vocal) for share in (0.0, 0.3, 1.0)]
    measure = SeparatedLeakage(TINY / "demucs", torch.device("cpu")).measure
    found = [measure(Heard(vocal, true, (band,))).values[SEPARATED_DB] or 0.0 for band in (*bands, vocal)]
    assert found == sorted(found)
    assert found[0] < -10
    assert found[-1] > -3


def test_a_folder_of_no_demucs_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        SeparatedLeakage(tmp_path / "nowhere", torch.device("cpu"))
