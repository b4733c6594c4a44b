import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.bases import ACE_STEP_1
from common.errors import UserError
from common.files import whole_file
from models.adapters.adapter import CARD_FILE, open_adapter, read_card
from models.adapters.lora import LORA_FILE
from models.loading.checkpoint import TINY, open_transformer, part_hash
from shards.reader import read_manifest
from shards.tar import append_sample, open_tar
from train.data.loader import BatchLoader
from train.loop.checkpoint import find_last
from train.loop.fit import fit
from train.loop.module import AccompanimentModule, encode
from train.loop.preparation import make_data, make_module, open_shards

pytestmark = pytest.mark.usefixtures("few_clips")

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("mode", ["image2image", "controlnet"])
def test_a_run_leaves_adapters_a_checkpoint_and_curves(song_shards, tiny_config, mode, capsys):
    config = tiny_config(song_shards, mode, max_steps=10, checkpoint_every_n_steps=6, val_every_n_steps=6)
    outcome = fit(config)
    assert outcome.folder == Path(config.logger_dir) / mode / "version_0"
    assert outcome.interrupted_by is None
    made = sorted(path.name for path in (outcome.folder / "checkpoints").iterdir())
    assert made == ["epoch=2-step=6_lora", "epoch=4-step=10_lora", "last.ckpt"]
    assert outcome.adapter.name == "epoch=4-step=10_lora"

    own = {"image2image": "source_projection.safetensors", "controlnet": "control_encoder.safetensors"}[mode]
    assert {path.name for path in outcome.adapter.iterdir()} == {LORA_FILE, CARD_FILE, own}
    card, manifest = read_card(outcome.adapter), read_manifest(song_shards)
    assert (card.step, card.epoch, card.conditioning.mode) == (10, 4, mode)
    assert (card.statistics, card.vocal_lufs) == (manifest.statistics, -20.0)
    assert card.shards_fingerprint == manifest.fingerprint.digest
    assert card.lyrics_language == "ja"
    assert card.validation == outcome.figures
    assert card.sampler.vocal_guidance_interval == (None if mode == "image2image" else (0.7, 1.0))
    assert card.validation["val/x0_gain_low"] <= card.validation["val/x0_gain"] <= card.validation["val/x0_gain_high"]
    adapter = open_adapter(
        outcome.adapter, open_transformer(TINY), weight=1.0, base_fingerprint=part_hash(TINY, "ace_step_transformer")
    )
    assert adapter.conditioner is not None

    curves = EventAccumulator(str(outcome.folder)).Reload()
    assert {"train/loss", "train/grad_norm", "train/learning_rate", "val/x0_gain"} <= set(curves.Tags()["scalars"])
    assert [event.step for event in curves.Scalars("val/conditioning_gain")] == [6, 10]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert (
        "6 songs, 7 segments to train on (in memory); 3 songs to validate on, too few to be sure that a model listens "
        "to the vocal: 8 would do\n"
    ) in printed.err
    assert f"{mode}: training 73,728 numbers of LoRA in 48 layers" in printed.err
    assert "these shards hold no SSL features" in printed.err
    assert "Lightning" not in printed.err


def test_the_checkpoint_holds_what_is_trained_and_nothing_of_the_base(song_shards, tiny_config):
    outcome = fit(tiny_config(song_shards, max_steps=1, val_fraction=0.0))
    last = outcome.folder / "checkpoints" / "last.ckpt"
    held = torch.load(last, weights_only=True)
    assert all(".lora_" in name or name.startswith("conditioner.") for name in held["state_dict"])
    assert {"optimizer_states", "lr_schedulers", "loops", "config", "base"} <= held.keys()
    assert held["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["handed"] == 2
    numbers = sum(tensor.numel() for tensor in held["state_dict"].values())
    assert numbers == 73_728 + 24_576
    assert last.stat().st_size < 4 * 4 * numbers


def imported_by(module: str, seen: set[str]) -> set[str]:
    """Our modules that importing `module` imports, directly or not (imports inside functions wait until they run)."""
    path = ROOT / (module.replace(".", "/") + ".py")
    if module in seen or not path.is_file():
        return seen
    seen.add(module)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for name in (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)):
                imported_by(name, seen)
    return seen


def test_training_imports_neither_codec_nor_vocoder_nor_text_encoder():
    modules = imported_by("train.loop.fit", set())
    assert {
        "train.loop.module",
        "models.loading.checkpoint",
        "shards.reader",
    } <= modules
    assert (
        not {
            "models.acestep1.codec.codec",
            "models.acestep1.codec.mel",
            "models.acestep1.codec.vocoder",
            "models.acestep1.text.encoder",
            "common.audio.wave",
        }
        & modules
    )


def poisoned(folder, make_sample):
    """Every target of the shards is NaN from now on, which the writer would have refused."""
    for entry in read_manifest(folder).shards:
        with whole_file(folder / entry.name) as partial, partial.open("wb") as file, open_tar(file) as tar:
            for segment in entry.segments:
                sample = make_sample(segment.song, int(segment.key[-3:]), segment.frames)
                append_sample(tar, sample, ACE_STEP_1)
        content = (folder / entry.name).read_bytes()
        for segment in entry.segments:
            inst = make_sample(segment.song, int(segment.key[-3:]), segment.frames).targets["inst"]
            content = content.replace(inst.tobytes(), np.full_like(inst, np.nan).tobytes())
        (folder / entry.name).write_bytes(content)


def test_a_gradient_that_is_not_finite_stops_the_run_and_loses_nothing(song_shards, tiny_config, make_sample):
    config = tiny_config(song_shards, max_steps=2, val_fraction=0.0)
    fit(config)
    before = find_last(config).read_bytes()
    poisoned(song_shards, make_sample)
    with pytest.raises(UserError) as caught:
        fit(config.model_copy(update={"max_steps": 4}), resume_from=find_last(config))
    assert str(caught.value) == (
        "step 2: the gradient is not finite (nan). Resume from the last checkpoint with a lower learning_rate, "
        "or check the shards (prep verify)."
    )
    assert find_last(config).read_bytes() == before


def test_a_full_disk_is_one_line_and_leaves_no_adapter(song_shards, tiny_config, monkeypatch):
    config = tiny_config(song_shards, max_steps=1, val_fraction=0.0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.adapters.adapter.flush", full)
    with pytest.raises(UserError) as caught:
        fit(config)
    folder = Path(config.logger_dir) / "image2image" / "version_0" / "checkpoints"
    assert str(caught.value) == f"{folder}/epoch=0-step=1_lora: cannot be written (No space left on device)."
    assert list(folder.iterdir()) == []


def test_adapters_hold_the_moving_average(song_shards, tiny_config):
    plain, averaged = (
        fit(tiny_config(song_shards, max_steps=2, val_fraction=0.0, ema_decay=decay, exp_name=f"ema{decay}"))
        for decay in (0.0, 0.75)
    )
    steps = [
        fit(
            tiny_config(song_shards, max_steps=2, val_fraction=0.0, checkpoint_every_n_steps=1, exp_name="steps")
        ).folder
        / "checkpoints"
        / name
        for name in ("epoch=0-step=1_lora", "epoch=0-step=2_lora")
    ]
    name = "source_projection.safetensors"
    first, second = (load_file(step / name)["projection.weight"] for step in steps)
    assert torch.equal(load_file(plain.adapter / name)["projection.weight"], second)
    expected = 0.75 * (0.25 * first) + 0.25 * second  # it starts at zero
    torch.testing.assert_close(load_file(averaged.adapter / name)["projection.weight"], expected)


def test_patience_ends_a_run_that_gains_no_more(song_shards, tiny_config):
    config = tiny_config(
        song_shards, max_steps=9, val_every_n_steps=1, early_stop_patience=2, learning_rate=1e-12, warmup_steps=100
    )
    outcome = fit(config)
    assert outcome.step < 9
    assert outcome.adapter.name.endswith(f"step={outcome.step}_lora")


def test_the_base_may_be_bfloat16_under_float32_adapters(song_shards, tiny_config):
    outcome = fit(tiny_config(song_shards, "controlnet", max_steps=2, base_dtype="bfloat16"))
    assert {tensor.dtype for tensor in load_file(outcome.adapter / LORA_FILE).values()} == {torch.float32}
    assert np.isfinite(outcome.figures["val/loss"])


def test_gradient_checkpointing_changes_memory_not_numbers(song_shards, tiny_config):
    ends = [
        fit(tiny_config(song_shards, max_steps=2, val_fraction=0.0, gradient_checkpointing=on, exp_name=f"gc{on}"))
        for on in (False, True)
    ]
    one, other = (load_file(end.adapter / LORA_FILE) for end in ends)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-6, rtol=1e-4)


def test_naive_says_what_it_is(song_shards, tiny_config, capsys):
    fit(tiny_config(song_shards, max_steps=1, val_fraction=0.0, accompaniment={"objective": "naive"}))
    assert "objective naive is regression: its accompaniments have no diversity" in capsys.readouterr().err


def one_step_by_formula(config, checkpoint_dir=TINY):
    """All that is trained after one optimiser step over one batch, by formula (docs/upstream.md, section 12)."""
    data = make_data(config, open_shards(config, features=False))
    module = make_module(config, checkpoint_dir, "b", data)
    loader = BatchLoader(data.samples, data.split.training, data.maker, length=1)
    batch = data.maker.with_noise(next(iter(loader)))
    s, r = (value.reshape(-1, 1, 1, 1) for value in (batch.timestep / 1000, batch.source.strength))
    v, m, eps, x0 = batch.source.vocal, batch.source.activity[:, None, None, :], batch.noise, batch.target
    wanted, a = config.accompaniment, r * 0.3 * batch.source.activity[:, None, None, :]
    name = wanted.objective if wanted.mode == "image2image" else "text2music"
    x_s = {
        "bridge_vp": (1 - s) * x0 + s * (a * v + (1 - (r * 0.3 * m) ** 2).sqrt() * eps),
        "bridge_lerp": (1 - s) * x0 + s * (a * v + (1 - a) * eps),
        "naive": s * eps,
    }.get(name, (1 - s) * x0 + s * eps)
    shown = x_s + ((1 - s) * r * v if name in {"offset", "naive"} else 0)
    assert module.conditioner is not None
    injections = module.conditioner.injections(batch.source, batch.timestep)
    conditions = encode(module.transformer, batch)
    output = module.transformer.decode(shown, batch.timestep, conditions, injections=injections).sample
    clean = output if name == "naive" else x_s - s * output
    (clean - x0).square().mean().backward()

    weights = module.trained.values()
    gradients = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights]
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    made = {}
    for (name, weight), gradient in zip(module.trained.items(), gradients, strict=True):
        clipped = gradient * (0.5 / (norm + 1e-6)).clamp(max=1.0)
        first, second = 0.2 * clipped / (1 - 0.8), 0.1 * clipped.square() / (1 - 0.9)
        step = first / (second.sqrt() + 1e-8)
        made[name] = weight.detach() * (1 - config.learning_rate * 0.01) - config.learning_rate * step
    return made, dict(zip(module.trained, gradients, strict=True))


@pytest.mark.parametrize(
    ("mode", "objective"),
    [
        ("image2image", "bridge_vp"),
        ("controlnet", "bridge_vp"),
        *(pytest.param("image2image", name, marks=pytest.mark.slow) for name in ("bridge_lerp", "offset", "naive")),
    ],
)
def test_a_step_of_the_trainer_is_the_step_of_the_formulas(song_shards, tiny_config, mode, objective):
    config = tiny_config(
        song_shards,
        mode,
        accompaniment={"objective": objective},
        max_steps=1,
        accumulate_grad_batches=1,
        val_fraction=0.0,
        lora={"r": 4, "lora_alpha": 4},
    )
    expected, gradients = one_step_by_formula(config)
    fit(config)
    made = torch.load(find_last(config), weights_only=True)["state_dict"]
    assert made.keys() == expected.keys()
    for name, weight in made.items():
        certain = (gradients[name] == 0) | (
            gradients[name].abs() > 1e-5
        )  # below, AdamW's first step is rounding's sign
        torch.testing.assert_close(weight[certain], expected[name][certain], atol=1e-6, rtol=1e-4)
    assert any((gradients[name].abs() > 1e-5).any() for name in made)


@pytest.mark.parametrize("setting", [{"base_dtype": "int8"}, pytest.param({"compile": True}, marks=pytest.mark.slow)])
def test_other_ways_to_compute_learn_the_same(song_shards, tiny_config, setting):
    ends = [
        fit(tiny_config(song_shards, max_steps=1, exp_name=name, **given))
        for name, given in (("plain", {}), ("other", setting))
    ]
    losses = [end.figures["val/loss"] for end in ends]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_memory_that_runs_out_is_one_line_and_the_checkpoint_stays(song_shards, tiny_config, monkeypatch):
    config = tiny_config(song_shards, max_steps=4, checkpoint_every_n_steps=2)
    losses = AccompanimentModule.losses

    def full(module, batch):
        if module.global_step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free.")
        return losses(module, batch)

    monkeypatch.setattr(AccompanimentModule, "losses", full)
    with pytest.raises(UserError) as caught:
        fit(config)
    last = Path(config.logger_dir) / "image2image" / "version_0" / "checkpoints" / "last.ckpt"
    assert str(caught.value) == (
        "out of memory while training on clips of up to 2 s, 2 at a time (CUDA out of memory. Tried to allocate "
        f"2.00 GiB. GPU 0 has 1 GiB free). {last} is kept. What helps, in this order: --precision bf16, "
        "--set gradient_checkpointing=true, --set batch_size=1, --set base_dtype=int8, --set optimizer=adamw8bit, "
        "a device with more memory."
    )
    monkeypatch.setattr(AccompanimentModule, "losses", losses)
    assert fit(config, resume_from=last).step == 4
