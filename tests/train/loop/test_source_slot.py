"""Training on a base that has a slot for a source, with the bundle of ACE-Step 1.5."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.bases import ACE_STEP_1, ACE_STEP_15
from common.errors import UserError
from common.latents import LatentStatistics
from models.adapters.adapter import read_card
from models.flow.conditioning import TEXT2MUSIC
from models.flow.schedule import velocity
from models.loading.checkpoint import TINY15, open_transformer
from train.config import TrainingConfig
from train.data.clips import Batch, ClipMaker
from train.data.other_vocals import fitted, shifted
from train.loop.fit import fit
from train.loop.module import AccompanimentModule, conditioning_of, encode, estimate, losses_of
from train.loop.preparation import Data, Split, adapters_on

BASE = TINY15 / "acestep-v15-base"
LATENTS, WIDTH = ACE_STEP_15.latents, ACE_STEP_15.text_width
STATISTICS = LatentStatistics(silence=((0.1,),) * 64, mean=(0.0,) * 64, std=(2.0,) * 64)
OPENED: list[str] = []
"""Files that were opened, once something listens."""


@pytest.fixture
def maker(tiny_config, tmp_path):
    """maker("context", text_dropout=1.0) cuts clips of 1 s."""

    def make(mode: str = "context", **settings) -> ClipMaker:
        config = tiny_config(tmp_path, mode, crop_seconds=1.0, accompaniment={"injection_layers": (0, 1)}, **settings)
        levels = ACE_STEP_15.noise_levels["base"]
        return ClipMaker(config.on(ACE_STEP_15), conditioning_of(config), STATISTICS, ACE_STEP_15, levels)

    return make


@pytest.fixture(scope="module")
def network():
    return open_transformer(BASE)


def test_strength_0_is_text2music_bit_for_bit(maker, make_source_song, network):
    made = maker()
    batch = made.batch([make_source_song("a", 30)], epoch=0)
    conditions = encode(network, batch)
    objective = made.conditioning.make_objective()

    def latents(source, objective):
        changed = replace(batch, source=source)
        return estimate(network, changed, conditions, objective=objective, conditioner=None).clean

    with torch.no_grad():
        plain = latents(batch.source, TEXT2MUSIC)
        assert torch.equal(latents(batch.source.muted(), objective), plain)
        assert not torch.equal(latents(replace(batch.source, strength=torch.ones(1)), objective), plain)


def test_the_slot_holds_the_vocal_and_moves_with_it(maker, make_source_song):
    sample = make_source_song("a", 25)
    clip = maker().without_noise(maker().cut([sample], epoch=0))
    vocal = torch.from_numpy(sample.vocal).float()
    assert torch.equal(clip.source.latents[0], vocal)
    later = shifted(clip.source).latents
    assert later is not None
    assert torch.equal(later[0], vocal.roll(12, dims=-1))
    tiled = fitted(clip.source, 40).latents
    assert tiled is not None
    assert torch.equal(tiled[0], torch.cat([vocal, vocal], dim=-1)[..., :40])
    noisy = maker().batch([sample], epoch=0).source
    spread = (noisy.latents - vocal).std().item()
    assert spread == pytest.approx(0.1 * 2.0, rel=0.1)  # latent_noise, in units of the vocal's deviation
    assert maker("controlnet").batch([sample], epoch=0).source.latents is None


def test_words_are_left_out_together_and_become_the_null_condition(maker, make_source_song, network):
    sample = make_source_song("a", 25)
    dropped = maker(text_dropout=1.0, lyric_dropout=0.0).batch([sample], epoch=0)
    kept = maker(text_dropout=0.0, lyric_dropout=1.0).batch([sample], epoch=0)
    rows = torch.from_numpy(sample.reduced_lyrics["instrumental"]).float()
    assert torch.equal(kept.lyric_ids[0], rows)
    assert not dropped.lyric_mask.any()
    with torch.no_grad():
        null = network.condition_encoder.null_condition_emb
        states = encode(network, dropped).states
        assert torch.equal(states, null.expand_as(states))
        assert not torch.equal(encode(network, kept).states[:, 0], null[:, 0])


def test_the_loss_is_that_of_velocities(maker, make_source_song, network):
    made = maker()
    batch = made.batch([make_source_song("a", 25), make_source_song("bb", 25)], epoch=0)
    with torch.no_grad():
        found = estimate(network, batch, encode(network, batch), objective=TEXT2MUSIC, conditioner=None)
    sigma = (batch.timestep / 1000)[:, None, None, None]
    state = sigma * batch.noise + (1 - sigma) * batch.target
    error = (state - found.clean) / sigma - velocity(batch.target, batch.noise)
    losses = losses_of(found, batch, made.config, of_velocities=True)
    torch.testing.assert_close(losses.of_clips, error.square().mean(dim=(1, 2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_clips_loss_and_gradient_do_not_depend_on_its_batch(maker, make_source_song, checkpointing):
    """Prompts of 5 and of 3 tokens, which one batch pads."""
    network, made = open_transformer(BASE), maker(lora={"r": 2})
    if checkpointing:
        network.enable_gradient_checkpointing()
    songs = [make_source_song(name, 25) for name in ("a", "bb", "ccc", "dddd")]
    data = Data(None, Split((), ()), made, None, None)  # ty: ignore[invalid-argument-type]
    with adapters_on(network, made.config, "b", data) as module:
        for weight in module.trained.values():
            weight.data += 0.1

        together = made.batch(songs, epoch=0)
        assert set(together.text_mask.sum(1).tolist()) == {3, 5}
        losses, gradient = learned(module, [together])
        alone, summed = learned(module, [made.batch([one], epoch=0) for one in songs])
        torch.testing.assert_close(losses, alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, summed, rtol=1e-3, atol=1e-5)


def learned(module: AccompanimentModule, batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of all clips, and the norm of each weight's gradient of their sum."""
    losses = [module.losses(batch).of_clips for batch in batches]
    for loss in losses:
        loss.sum().backward()
    norms = [weight.grad.norm() for weight in module.trained.values() if weight.grad is not None]
    module.zero_grad()
    return torch.cat(losses).detach(), torch.stack(norms)


@pytest.mark.parametrize("mode", ["context", "controlnet", "image2image"])
def test_what_is_trained_reaches_the_loss_in_each_mode(maker, make_source_song, network, mode):
    made = maker(mode, lora={"r": 2, "target_modules": ["to_q", "down_proj"]})
    data = Data(None, Split((), ()), made, None, None)  # ty: ignore[invalid-argument-type]
    with adapters_on(network, made.config, "b", data) as module:
        assert isinstance(module, AccompanimentModule)
        batch = made.batch([make_source_song("a", 25), make_source_song("bb", 25)], epoch=1)
        module.losses(batch).total.backward()
        moved = [name for name, weight in module.trained.items() if weight.grad is not None and weight.grad.any()]
        assert any("down_proj.lora_B" in name for name in moved)
        assert any(name.startswith("conditioner.") for name in moved) == (mode != "context")


def test_a_mode_that_is_left_open_is_the_bases_own():
    config = TrainingConfig()
    there, here = config.on(ACE_STEP_15), config.on(ACE_STEP_1)
    assert (there.accompaniment.mode, there.shift, there.ssl_coeff) == ("context", 1.0, 0.0)
    assert here == config
    said = TrainingConfig(accompaniment={"mode": "controlnet"}, shift=2.0).on(ACE_STEP_15)
    assert (said.accompaniment.mode, said.shift) == ("controlnet", 2.0)
    with pytest.raises(UserError, match="ace-step-1 has no slot for a source"):
        TrainingConfig(accompaniment={"mode": "context"}).on(ACE_STEP_1)


def test_a_run_opens_no_codec_and_no_text_encoder(make_source_shards, tiny_config, few_clips):
    folder = make_source_shards({f"song{number}": [25] for number in range(5)})
    config = tiny_config(
        folder, "context", crop_seconds=1.0, max_steps=2, accumulate_grad_batches=1, val_fraction=0.4,
        lora={"r": 2, "target_modules": ["to_q", "to_v"]},
    )  # fmt: skip
    sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)
    result = fit(config)
    parts = {piece for path in OPENED for piece in Path(path).parts if TINY15 in Path(path).parents}
    assert "acestep-v15-base" in parts
    assert not {"vae", "Qwen3-Embedding-0.6B"} & parts
    card = read_card(result.adapter)
    assert (card.conditioning.mode, card.lyrics_content) == ("context", "instrumental")
    assert (card.sampler.steps, card.sampler.shift, card.sampler.omega_scale) == (50, 1.0, 0.0)
    assert not list(result.adapter.glob("source_projection*"))
    assert {"val/x0_gain", "val/conditioning_gain"} <= card.validation.keys()
    assert json.loads((result.folder / "config.json").read_text())["accompaniment"]["mode"] == "context"
