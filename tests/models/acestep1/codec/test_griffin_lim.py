import pytest
import torch
from torchaudio.functional import griffinlim

from models.acestep1.codec.griffin_lim import griffin_lim


@pytest.mark.parametrize(("width", "hop"), [(64, 16), (64, 32)])
@pytest.mark.parametrize("momentum", [0.0, 0.99])
@pytest.mark.parametrize("rounds", [0, 1, 8])
def test_waves_are_those_of_torchaudio(width, hop, momentum, rounds):
    window = torch.hann_window(width, dtype=torch.float64)
    magnitudes = torch.rand(2, width // 2 + 1, 20, dtype=torch.float64)
    made = griffin_lim(magnitudes, window, hop, rounds=rounds, momentum=momentum)
    length = 19 * hop
    assert made.shape == (2, length)
    expected = griffinlim(
        magnitudes,
        window,
        width,
        hop,
        width,
        power=1.0,
        n_iter=rounds,
        momentum=momentum,
        length=length,
        rand_init=False,
    )
    torch.testing.assert_close(made, expected)
