import math
from dataclasses import replace

import pytest
import torch

from common.bases import ACE_STEP_1
from common.latents import LatentStatistics
from models.adapters.conditioning import Conditioning
from models.adapters.lora import attach_lora
from models.loading.checkpoint import TINY, open_transformer
from train.data.clips import ClipMaker
from train.data.other_vocals import derangement, fitted, shifted
from train.data.plan import seeded
from train.loop.module import AccompanimentModule, conditioning_of
from train.loop.validation import (
    GAINS,
    LEVELS,
    Validation,
    at_levels,
    gain,
    listens,
    noise_levels,
)

STATISTICS = LatentStatistics(silence=((0.25,) * 16,) * 8, mean=(0.0,) * 8, std=(1.0,) * 8)


@pytest.fixture
def asked(tiny_config, tmp_path, make_sample):
    """asked(mode, **settings) is (module, validation over three songs of different length)."""

    def ask(mode="image2image", **settings):
        config = tiny_config(tmp_path, mode, **settings)
        transformer = open_transformer(TINY)
        attach_lora(transformer, rank=4, alpha=4, target_modules=config.lora.target_modules, dropout=0.5)
        conditioning = conditioning_of(config)
        conditioner = conditioning.make_conditioner(transformer)
        maker = ClipMaker(config, conditioning, STATISTICS, ACE_STEP_1)
        samples = {f"s{n}": make_sample(f"s{n}", 0, frames) for n, frames in enumerate((24, 9, 17))}
        return AccompanimentModule(config, transformer, conditioner, base_fingerprint="b"), Validation(samples, maker)

    return ask


def test_a_fresh_controlnet_gains_exactly_nothing(asked):
    module, validation = asked("controlnet")
    figures = validation(module)
    assert {name: gained.value for name, gained in figures.gains.items()} == dict.fromkeys(GAINS, 0.0)
    assert set(figures.gains_at["x0_gain"]) == {0.0}


def test_a_model_that_knows_the_vocals_gains(asked):
    """Adapters set up so that the vocal's own path matters: muting, shifting and exchanging must be noticed."""
    module, validation = asked("image2image")
    assert module.conditioner is not None
    module.conditioner.projection.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    figures = validation(module)
    found = [figures.gains[name] for name in ("gain_over_muted", "gain_over_shifted", "conditioning_gain")]
    assert len({gained.value for gained in found} | {0.0}) == 4
    assert all(gained.low < gained.value < gained.high for gained in found)


@pytest.mark.parametrize("mode", ["image2image", "controlnet"])
def test_asking_twice_gives_the_same_and_leaves_no_trace(asked, mode):
    module, validation = asked(mode)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    state = torch.get_rng_state()
    first = validation(module)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name for name, parameter in module.named_parameters() if parameter.requires_grad} == trained
    assert all(parameter.grad is None for parameter in module.parameters())
    dropouts = [part for name, part in module.named_modules() if name.endswith("lora_dropout.trained")]
    assert dropouts
    assert all(dropout.training for dropout in dropouts)
    assert validation(module) == first
    _, again = asked(mode)
    assert again(module) == first


def test_figures_have_names_for_every_level(asked):
    module, validation = asked()
    named = validation(module).named()
    assert len(named) == 1 + 4 * 3 + 5 * len(LEVELS)
    assert {"val/loss", "val/loss_at_0.9", "val/x0_gain", "val/gain_over_muted_low", "val/x0_gain_at_0.1"} <= set(named)
    at_levels = [named[f"val/loss_at_{level:g}"] for level in LEVELS]
    assert named["val/loss"] == pytest.approx(sum(at_levels) / len(LEVELS))


def test_another_pitch_of_the_vocal_is_compared_where_the_shards_have_it(asked, make_sample):
    module, validation = asked()
    module.conditioner.projection.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    assert "gain_over_transposed" not in validation(module).gains
    maker = ClipMaker(module.config, conditioning_of(module.config), STATISTICS, ACE_STEP_1)
    songs = {f"s{n}": make_sample(f"s{n}", 0, frames) for n, frames in enumerate((24, 9, 17))}
    late = songs["s2"].meta.model_copy(update={"start_seconds": 0.2})
    higher = {"s0": [make_sample("s0_up2", 0, 23)], "s1": [songs["s1"]], "s2": [replace(songs["s2"], meta=late)]}
    with_copies = Validation(songs, maker, transposed=higher)
    assert [source is not None for source in with_copies.transposed] == [True, True, False] * 3
    for source, clip in zip(with_copies.transposed, with_copies.clips, strict=True):
        assert source is None or source.vocal.shape == clip.source.vocal.shape
    figures = with_copies(module)
    assert figures.gains["gain_over_transposed"].value != 0
    assert {name: figures.gains[name] for name in GAINS} == validation(module).gains, "the rest is as it was"
    assert {"val/gain_over_transposed_low", "val/gain_over_transposed_at_0.9"} <= set(figures.named())
    itself = Validation(songs, maker, transposed={name: [song] for name, song in songs.items()})
    assert itself(module).gains["gain_over_transposed"].value == 0


def of_kind(samples, separated):
    """The samples, of which those named have a separated vocal."""
    return {
        name: replace(
            sample, meta=sample.meta.model_copy(update={"separator": "htdemucs" if name in separated else None})
        )
        for name, sample in samples.items()
    }


def test_clean_and_separated_songs_are_told_apart_where_both_are_there(tiny_config, tmp_path, make_sample, asked):
    module, of_one_kind = asked()
    module.conditioner.projection.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    assert not [name for name in of_one_kind(module).named() if "clean" in name or "separated" in name]
    maker = ClipMaker(module.config, conditioning_of(module.config), STATISTICS, ACE_STEP_1)
    samples = {f"s{n}": make_sample(f"s{n}", 0, 12) for n in range(8)}
    alone = {f"s{n}" for n in range(3)}
    named = Validation(of_kind(samples, alone), maker)(module).named()
    assert len(named) == 1 + 4 * 3 + 5 * len(LEVELS) + 2 * 4 * 3
    for kind in ("clean", "separated"):
        assert named[f"val/x0_gain_{kind}_low"] < named[f"val/x0_gain_{kind}"] < named[f"val/x0_gain_{kind}_high"]
    low, high = sorted(named[f"val/x0_gain_{kind}"] for kind in ("clean", "separated"))
    assert low < named["val/x0_gain"] < high
    few = Validation(of_kind(samples, {"s0"}), maker)
    assert "val/x0_gain_clean" not in few(module).named(), "one song has no interval"
    assert (few.deciding, few.described_choice()) == (None, None)


@pytest.mark.parametrize(("given", "deciding"), [(7, None), (8, "clean")])
def test_given_vocals_decide_from_eight_songs_on(tiny_config, tmp_path, make_sample, given, deciding):
    config = tiny_config(tmp_path)
    maker = ClipMaker(config, conditioning_of(config), STATISTICS, ACE_STEP_1)
    samples = {f"s{n}": make_sample(f"s{n}", 0, 9) for n in range(given + 2)}
    validation = Validation(of_kind(samples, {"s0", "s1"}), maker)
    assert validation.deciding == deciding
    line = validation.described_choice()
    assert line is not None
    assert line.startswith(f"validation: {given} songs have given vocals, 2 separated ones; ")
    assert ("8 given ones would decide" in line) == (deciding is None)
    assert Validation(samples, maker).described_choice() is None


@pytest.mark.parametrize(("muted", "exchanged", "sure"), [(0.1, 0.1, True), (0.1, -0.1, False), (0.0, 0.1, False)])
def test_a_model_listens_where_the_vocal_is_of_use_and_no_other_is_as_good(muted, exchanged, sure):
    figures = {"val/gain_over_muted_low": muted, "val/conditioning_gain_low": exchanged, "val/x0_gain": 1.0}
    assert listens(figures) == sure
    assert not listens({})
    assert not listens(figures, "clean")
    assert listens({name.replace("_low", "_clean_low"): value for name, value in figures.items()}, "clean") == sure


def test_few_songs_are_cut_several_times_with_noise_of_their_own(asked):
    _, validation = asked(crop_seconds=0.4)
    clips = validation.clips
    assert len(clips) == 9, "three songs, three clips each"
    assert len({clip.noise.sum().item() for clip in clips}) == 9
    of_first = [clip for clip in clips if clip.keys == clips[0].keys]
    assert len({clip.target.sum().item() for clip in of_first}) == 3, "of three places"
    for clip, partner in zip(clips, validation.partners, strict=True):
        assert clips[partner].keys != clip.keys
    assert sorted(validation.partners) == list(range(9))


def test_eight_songs_are_cut_once_in_their_middle(tiny_config, tmp_path, make_sample):
    config = tiny_config(tmp_path, crop_seconds=0.4)
    maker = ClipMaker(config, conditioning_of(config), STATISTICS, ACE_STEP_1)
    samples = {f"s{n}": make_sample(f"s{n}", 0, 24) for n in range(8)}
    clips = Validation(samples, maker).clips
    assert len(clips) == 8
    assert torch.equal(clips[0].target[0], torch.tensor(samples["s0"].targets["inst"], dtype=torch.float32)[..., 10:14])


def test_without_the_vocal_the_levels_are_those_of_plain_noise(asked):
    """A muted bridge is text2music: an adapter that does nothing then gains over it what the mixing costs."""
    module, validation = asked(accompaniment={"a_max": 0.8})
    figures = validation(module)
    assert figures.gains["gain_over_muted"] == figures.gains["x0_gain"]


def test_a_shifted_vocal_is_the_same_one_later(asked):
    _, validation = asked()
    source = validation.clips[0].source
    moved = shifted(source)
    half = source.activity.shape[-1] // 2
    for name in ("vocal", "conditioner_input", "activity"):
        assert torch.equal(getattr(moved, name)[..., half:], getattr(source, name)[..., :-half])
        assert torch.equal(getattr(moved, name)[..., :half], getattr(source, name)[..., -half:])
    assert torch.equal(moved.strength, source.strength)


@pytest.mark.parametrize(
    ("conditioning", "b"),
    [
        (Conditioning(a_max=0.8), math.sqrt(1 - 0.4**2)),
        (Conditioning(objective="bridge_lerp", a_max=0.8), 1 - 0.4),
        (Conditioning(objective="offset", a_max=0.8), 1.0),
    ],
)
def test_levels_are_noise_against_data_in_the_state(conditioning, b):
    sigmas = noise_levels(conditioning, 0.5)
    for u, s in zip(LEVELS[:-1], sigmas[:-1].tolist(), strict=True):
        assert s * b / (1 - s) == pytest.approx(u / (1 - u), rel=1e-5)
    assert sigmas[-1] == 1.0


@pytest.mark.parametrize("count", [2, 3, 10])
def test_everybody_gets_somebody_elses_vocal(count):
    partners = derangement(count, seeded("any"))
    assert sorted(partners) == list(range(count))
    assert all(partner != song for song, partner in enumerate(partners))


def test_another_vocal_is_tiled_or_cut(asked):
    _, validation = asked()
    long, short = validation.clips[:2]
    tiled = fitted(short.source, long.target.shape[-1])
    assert tiled.vocal.shape == long.target.shape
    assert torch.equal(tiled.vocal[..., 9:18], short.source.vocal)
    assert torch.equal(fitted(long.source, 9).activity, long.source.activity[:, :9])


def test_a_clip_at_all_levels_differs_in_nothing_else(asked):
    _, validation = asked()
    clip = validation.clips[0]
    levels = at_levels(clip, torch.tensor(LEVELS))
    torch.testing.assert_close(levels.timestep, 1000 * torch.tensor(LEVELS))
    assert torch.equal(levels.noise[0], levels.noise[-1])
    assert levels.source.strength.tolist() == [1.0] * len(LEVELS)
    assert replace(levels, timestep=clip.timestep).keys == clip.keys


def test_a_gain_and_its_interval():
    draws = torch.Generator().manual_seed(0)
    others = torch.rand(40, 6, dtype=torch.float64, generator=draws) + 1
    certain = gain(0.75 * others, others)
    assert (certain.value, certain.low, certain.high) == pytest.approx((0.25, 0.25, 0.25))
    unlike = torch.randn(40, 1, dtype=torch.float64, generator=draws)
    noisy = gain(others * (0.75 + 0.2 * unlike), others)
    assert noisy.low < noisy.value < noisy.high
    assert noisy.high - noisy.low == pytest.approx(2 * 2.02 * 0.2 / math.sqrt(40), rel=0.35)


@pytest.mark.parametrize("clips", [8, 20])
def test_chance_is_called_a_gain_as_often_as_the_interval_says(clips):
    draws = torch.Generator().manual_seed(1)
    shape = (4000, clips, 1)
    own, other = (1 + 0.1 * torch.randn(shape, dtype=torch.float64, generator=draws) for _ in range(2))
    alarms = sum(gain(mine, theirs).low > 0 for mine, theirs in zip(own, other, strict=True)) / 4000
    assert 0.015 < alarms < 0.035
