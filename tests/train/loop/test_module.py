from dataclasses import replace

import pytest
import torch

from common.bases import ACE_STEP_1
from common.latents import LatentStatistics
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.adapters.lora import attach_lora
from models.flow.conditioning import TEXT2MUSIC, VocalSource
from models.loading.checkpoint import TINY, open_transformer
from train.config import TrainingConfig
from train.data.clips import Batch, ClipMaker
from train.loop.losses import denoising_loss
from train.loop.module import AccompanimentModule, conditioning_of, encode, estimate, losses_of

MODES = ("image2image", "controlnet")
STATISTICS = LatentStatistics(silence=((0.25,) * 16,) * 8, mean=(0.0,) * 8, std=(1.0,) * 8)


@pytest.fixture
def built(tiny_config, tmp_path, make_sample):
    """built(mode, **settings) is (module on the tiny base, batch of three clips)."""

    def build(mode, *, lengths=(24, 30, 24), **settings):
        config = tiny_config(tmp_path, mode, **settings)
        transformer = open_transformer(TINY)
        attach_lora(
            transformer,
            rank=config.lora.r,
            alpha=config.lora.lora_alpha,
            target_modules=config.lora.target_modules,
        )
        conditioning = conditioning_of(config)
        conditioner = conditioning.make_conditioner(transformer)
        module = AccompanimentModule(config, transformer, conditioner, base_fingerprint="b")
        maker = ClipMaker(config, conditioning, STATISTICS, ACE_STEP_1)
        return module, maker.batch([make_sample(f"s{n}", 0, frames) for n, frames in enumerate(lengths)], epoch=0)

    return build


def awakened(module):
    """Every trained weight moved away from its start, where much is zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.trained.values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


def at_strength(batch, strength):
    return replace(batch, source=replace(batch.source, strength=torch.full_like(batch.source.strength, strength)))


def base_loss(batch):
    """Plain text2music on the base without any adapter."""
    base = open_transformer(TINY)
    with torch.no_grad():
        made = estimate(base, batch, encode(base, batch), objective=TEXT2MUSIC, conditioner=None)
    return losses_of(made, batch, TrainingConfig()).total


def golden_batch(golden):
    given, step = golden("transformer").inputs, golden("train_step").inputs
    ones, nobody = torch.ones(2, 37), torch.zeros_like(step["latents"])
    features = tuple(tuple(given[f"ssl.{network}.{item}"] for item in range(2)) for network in ("mert", "m-hubert"))
    return Batch(
        keys=("a", "b"),
        target=step["latents"],
        source=VocalSource(vocal=nobody, conditioner_input=nobody, activity=ones, strength=torch.zeros(2)),
        text=given["text"],
        text_mask=given["text_mask"],
        lyric_ids=given["lyric_ids"],
        lyric_mask=given["lyric_mask"],
        noise=step["noise"],
        timestep=step["timesteps"],
        weight=torch.ones(2),
        features=features,
    )


@pytest.fixture
def golden_base(golden):
    notes = golden("transformer").notes
    lyrics = notes["lyric_encoder_args"]
    base = ACEStepTransformer2DModel(
        **notes["config"],
        lyric_encoder_heads=lyrics["attention_heads"],
        lyric_encoder_ff=lyrics["linear_units"],
        lyric_encoder_layers=lyrics["num_blocks"],
    )
    base.load_state_dict(golden("transformer").weights)
    return base.eval().requires_grad_(False)


def unpacked(base, golden):
    """Conditions as upstream leaves them: padded text moves the lyrics behind it."""
    given = golden("transformer").inputs
    return base.encode(given["text"], given["text_mask"], given["speaker"], given["lyric_ids"], given["lyric_mask"])


def test_one_step_has_upstreams_loss(golden, golden_base):
    batch, logged = golden_batch(golden), golden("train_step").notes["logged"]
    made = estimate(golden_base, batch, unpacked(golden_base, golden), objective=TEXT2MUSIC, conditioner=None)
    losses = losses_of(made, batch, TrainingConfig())
    parts = {name: part.item() for name, part in (losses.parts | {"loss": losses.total}).items()}
    assert parts == pytest.approx({name.removeprefix("train/"): value for name, value in logged.items()}, rel=1e-5)
    assert losses.total.item() == pytest.approx(golden("train_step").expected["loss"].item(), rel=1e-5)


def test_upstreams_padded_loss_lets_the_masked_fraction_enter_twice(golden, golden_base):
    batch, mask = golden_batch(golden), golden("train_step").inputs["attention_mask_padded"]
    sigma = (batch.timestep / 1000).reshape(-1, 1, 1, 1)
    x_s = sigma * batch.noise + (1 - sigma) * batch.target
    output = golden_base.decode(x_s, batch.timestep, unpacked(golden_base, golden), mask=mask).sample
    once = denoising_loss(x_s - sigma * output, batch.target, mask)
    twice = (once * mask.mean(dim=1) * mask.mean(dim=1)).mean()
    torch.testing.assert_close(twice[None], golden("train_step").expected["loss_padded_mask"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_fresh_adapter_at_strength_0_is_the_base(built, mode):
    module, batch = built(mode)
    assert torch.equal(module.losses(at_strength(batch, 0.0)).total, base_loss(batch))


def test_a_fresh_adapter_changes_nothing_at_any_strength(built):
    module, batch = built("controlnet")
    assert torch.equal(module.losses(at_strength(batch, 1.0)).total, base_loss(batch))
    module, batch = built("image2image", accompaniment={"a_max": 0.0})
    assert torch.equal(module.losses(at_strength(batch, 1.0)).total, base_loss(batch))
    module, batch = built("image2image")
    assert not torch.equal(module.losses(at_strength(batch, 1.0)).total, base_loss(batch))


@pytest.mark.parametrize("mode", MODES)
def test_strength_0_is_text2music_in_a_trained_model(built, mode):
    module, batch = built(mode, lora={"r": 4, "lora_alpha": 4})
    awakened(module)
    silent = at_strength(batch, 0.0)
    conditions = encode(module.transformer, batch)
    plain = estimate(module.transformer, batch, conditions, objective=TEXT2MUSIC, conditioner=None)
    made = estimate(module.transformer, silent, conditions, objective=module.objective, conditioner=module.conditioner)
    assert torch.equal(made.clean, plain.clean)
    halved = at_strength(batch, 0.5)
    made = estimate(module.transformer, halved, conditions, objective=module.objective, conditioner=module.conditioner)
    assert not torch.equal(made.clean, plain.clean)


@pytest.mark.parametrize("mode", MODES)
def test_a_clips_loss_is_the_same_alone_and_in_a_batch(built, mode, tiny_config, tmp_path, make_sample):
    module, batch = built(mode)
    awakened(module)
    assert batch.text_mask.all(dim=1).tolist() != [True] * 3  # prompts of different length
    maker = ClipMaker(module.config, conditioning_of(module.config), STATISTICS, ACE_STEP_1)
    alone = [maker.batch([make_sample(f"s{n}", 0, frames)], epoch=0) for n, frames in enumerate((24, 30, 24))]
    losses = torch.stack([module.losses(clip).total for clip in alone])
    for row in range(3):
        weight = torch.zeros(3)
        weight[row] = 1.0
        together = module.losses(replace(batch, weight=weight)).total
        torch.testing.assert_close(together, losses[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", ["bridge_vp", "bridge_lerp", "offset", "naive"])
def test_every_objective_trains_what_its_formula_says(built, objective):
    module, batch = built("image2image", accompaniment={"objective": objective})
    awakened(module)
    s, r = (value.reshape(-1, 1, 1, 1) for value in (batch.timestep / 1000, batch.source.strength))
    v, m, eps, x0 = batch.source.vocal, batch.source.activity[:, None, None, :], batch.noise, batch.target
    a = r * 0.3 * m
    x_s = {
        "bridge_vp": (1 - s) * x0 + s * (a * v + (1 - a**2).sqrt() * eps),
        "bridge_lerp": (1 - s) * x0 + s * (a * v + (1 - a) * eps),
        "offset": (1 - s) * x0 + s * eps,
        "naive": s * eps,
    }[objective]
    shown = x_s + ((1 - s) * r * v if objective in {"offset", "naive"} else 0)
    assert module.conditioner is not None
    output = module.transformer.decode(
        shown,
        batch.timestep,
        encode(module.transformer, batch),
        injections=module.conditioner.injections(batch.source, batch.timestep),
    ).sample
    clean = output if objective == "naive" else x_s - s * output
    torch.testing.assert_close(module.losses(batch).total, (clean - x0).square().mean())


@pytest.mark.parametrize("mode", MODES)
def test_only_the_adapter_learns_and_the_base_stays_in_eval_mode(built, mode):
    module, batch = built(mode)
    module.losses(batch).total.backward()
    learning = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert learning == set(module.trained)
    assert all(".lora_" in name or name.startswith("conditioner.") for name in learning)
    assert not any(block.training for block in module.transformer.transformer_blocks)
    assert not module.transformer.lyric_encoder.training


def test_control_gradients_are_finite_at_once_and_reach_the_encoder_from_the_second_step(built):
    module, batch = built("controlnet")
    batch = at_strength(batch, 1.0)
    optimizer = torch.optim.AdamW(module.trained.values(), lr=1e-2)
    sizes = []
    for _ in range(2):
        optimizer.zero_grad()
        module.losses(batch).total.backward()
        gradients = {name: p.grad for name, p in module.trained.items() if name.startswith("conditioner.")}
        assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)
        sizes.append(gradients["conditioner.patch_embed.weight"].abs().max().item())
        optimizer.step()
    assert sizes[0] == 0.0
    assert sizes[1] > 0.0


@pytest.mark.parametrize("mode", MODES)
def test_training_on_one_batch_brings_its_loss_down(built, mode):
    module, batch = built(mode, lora={"r": 16, "lora_alpha": 16})
    optimizer = torch.optim.AdamW(module.trained.values(), lr=1e-2, betas=(0.8, 0.9))
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = module.losses(batch).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.7 * losses[0]  # so high a rate overshoots again, sooner or later by the last bits


def test_structure_and_features_add_their_share(built):
    module, batch = built("image2image", structure_coeff=2.0, ssl_coeff=0.5)
    features = tuple(tuple(torch.randn(30, width) for _ in range(3)) for width in (1024, 768))
    losses = module.losses(replace(batch, features=features))
    parts = losses.parts
    expected = (
        parts["denoising_loss"]
        + 0.5 * (parts["mert_loss"] + parts["m-hubert_loss"]) / 2
        + 2.0 * parts["structure_loss"]
    )
    torch.testing.assert_close(losses.total, expected)
