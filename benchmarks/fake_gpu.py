"""What the published model asks of a CUDA device, counted without one: launches, operations, bytes, memory.

    uv run python -m benchmarks.fake_gpu [--config image2image_base] [--seconds 240] [--set base_dtype=int8]

One training step (forward, backward, optimiser) and one guided sampling step run on fake tensors, in a minute of CPU
time and without memory. Seconds are a roofline: each launch bound by its operations or its bytes, and the whole by how
fast launches are asked for. A real card is slower; `python -m benchmarks.gpu` measures one.
"""

import argparse
import sys
from dataclasses import fields

import torch
from torch import Tensor

from benchmarks.counting import Counting, Counts, GpuLimits
from benchmarks.fake_cuda import CUDA, backward, fake_cuda
from benchmarks.full_size import default_dtype
from common.bases import ACE_STEP_1
from common.config import load_config
from common.latents import LatentStatistics
from models.acestep1.sizes import PUBLISHED
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.adapters.lora import attach_lora
from models.flow.sampler import SamplerSettings, sample
from models.loading.int8 import to_int8
from models.loading.weights import without_notes
from train.config import TrainingConfig
from train.data.clips import Batch, ClipBatch, ClipMaker
from train.loop.memory import estimated_bytes
from train.loop.module import AccompanimentModule, conditioning_of, encode
from train.loop.optim import make_optimizer

LATENTS = ACE_STEP_1.latents

GIB = 2**30
TEXT_TOKENS = 60
LYRIC_TOKENS = 400
TOKENS = 1 + TEXT_TOKENS + LYRIC_TOKENS
STATISTICS = LatentStatistics(silence=((0.0,) * 16,) * 8, mean=(0.0,) * 8, std=(1.0,) * 8)
SHOWN = 12
"""Operators listed, by bytes."""


def main() -> None:
    arguments = parsed()
    card = GpuLimits(**{entry.name: getattr(arguments, entry.name) for entry in fields(GpuLimits)})
    changes = [f"crop_seconds={arguments.seconds:g}", "base_dtype=bfloat16", *arguments.settings]
    config = load_config(TrainingConfig, arguments.config, changes)
    blocks = arguments.blocks or PUBLISHED.transformer["num_layers"]
    print(f"{arguments.config}, {' '.join(changes)}, {blocks} blocks; {card.name} (counted, nothing was run on it)")
    with fake_cuda(), Counting(card, TOKENS) as counting:
        module = make_module(config, blocks)
        batch = make_batch(config)
        sampled = sampling_step(module, batch, counting)
        trained = training_steps(module, batch, counting)
        show(card, {**trained, "one guided sampling step": sampled})
        peak, estimate = counting.peak / GIB, estimated_bytes(module) / GIB
        print(f"peak of training {peak:.2f} GiB, estimated {estimate:.2f} GiB ({estimate / peak:.2f})")
        if arguments.operators:
            show_operators(sum_of(trained))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="image2image_base")
    parser.add_argument("--seconds", type=float, default=240.0, help="length of the clip")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="NAME=VALUE")
    parser.add_argument("--blocks", type=int, help="of the transformer [as published]")
    parser.add_argument("--operators", action="store_true", help="list the operators of a step that move most")
    for entry in fields(GpuLimits):
        kind = type(entry.default)
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}", type=kind, default=entry.default, help=f"[{entry.default}]"
        )
    return parser.parse_args()


def make_module(config: TrainingConfig, blocks: int) -> AccompanimentModule:
    """The published transformer with adapters as `config` wants them, on the fake device."""
    network = make_transformer(config.base_dtype or "float32", blocks)
    if config.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    lora = config.lora
    attach_lora(
        network, rank=lora.r, alpha=lora.lora_alpha, target_modules=lora.target_modules, use_rslora=lora.use_rslora,
        dropout=lora.lora_dropout, use_dora=lora.use_dora, blocks=lora.blocks,
    )  # fmt: skip
    conditioner = conditioning_of(config).make_conditioner(network)
    if conditioner is not None:
        conditioner.to(CUDA)
    return AccompanimentModule(config, network, conditioner, base_fingerprint="")


def make_transformer(base_dtype: str, blocks: int) -> ACEStepTransformer2DModel:
    """The published transformer with so many blocks, frozen, on the fake device."""
    with default_dtype(torch.float32 if base_dtype == "float32" else torch.bfloat16), CUDA:
        sizes = {"num_layers": blocks, "ssl_encoder_depths": [min(8, blocks - 1)] * 2}
        network = ACEStepTransformer2DModel(**(without_notes(PUBLISHED.transformer) | sizes))
    network.requires_grad_(False).eval()
    if base_dtype == "int8":
        to_int8(network)
        network.eval()
    return network


def make_batch(config: TrainingConfig, *, features: bool = False) -> Batch:
    """A batch as long as the config's crop, without noise: a generator of a device that is not there draws none."""
    maker = ClipMaker(config, conditioning_of(config), STATISTICS, ACE_STEP_1)
    return maker.without_noise(make_clips(maker.crop_frames, config.batch_size, features=features).to(CUDA))


def make_clips(frames: int, batch: int, *, features: bool) -> ClipBatch:
    def half(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float16)

    seconds = frames / LATENTS.frames_per_second
    ssl = ((half(round(75 * seconds), 1024),) * batch, (half(round(50 * seconds), 768),) * batch)
    return ClipBatch(
        keys=("clip",) * batch,
        target=half(batch, 8, 16, frames),
        vocal=half(batch, 8, 16, frames),
        activity=half(batch, frames),
        strength=torch.empty(batch),
        text=half(batch, TEXT_TOKENS, ACE_STEP_1.text_width),
        text_mask=torch.empty(batch, TEXT_TOKENS, dtype=torch.bool),
        lyric_ids=torch.empty(batch, LYRIC_TOKENS, dtype=torch.int64),
        lyric_mask=torch.empty(batch, LYRIC_TOKENS, dtype=torch.bool),
        timestep=torch.empty(batch),
        weight=torch.empty(batch),
        noise_seeds=(1,) * batch,
        features=ssl if features else (),
    )


def training_steps(module: AccompanimentModule, batch: Batch, counting: Counting) -> dict[str, Counts]:
    """The parts of a training step; the second one, when the optimiser has its state."""
    trained, config = list(module.trained.values()), module.config
    optimizer, found = make_optimizer(trained, config), {}
    for _ in range(2):
        counting.restart()
        root = module.losses(batch).total.grad_fn
        found["forward"] = counting.counts
        counting.counts = Counts()
        backward(root)
        del root
        found["backward"] = counting.counts
        counting.counts = Counts()
        with torch.no_grad():
            module.on_before_optimizer_step(optimizer)
            module.configure_gradient_clipping(optimizer, config.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()
        found["optimiser"] = counting.counts
    return found


@torch.no_grad()
def sampling_step(module: AccompanimentModule, batch: Batch, counting: Counting) -> Counts:
    """One step of `infer generate` with guidance: what two take more than one."""
    counts = []
    for steps in (1, 2):
        counting.restart()
        settings = SamplerSettings(steps=steps, guidance_interval=1.0)
        conditions = module.transformer.prepare(encode(module.transformer, batch))
        sample(
            module.transformer, conditions, conditions, batch.noise, settings,
            source=batch.source, conditioner=module.conditioner,
        )  # fmt: skip
        counts.append(counting.counts)
    one, two = counts
    return Counts(
        two.launches - one.launches,
        two.flop - one.flop,
        two.bytes - one.bytes,
        two.device_seconds - one.device_seconds,
        two.by_operator - one.by_operator,
        two.launches_by_operator - one.launches_by_operator,
    )


def sum_of(parts: dict[str, Counts]) -> Counts:
    whole = Counts()
    for part in parts.values():
        whole.launches += part.launches
        whole.flop += part.flop
        whole.bytes += part.bytes
        whole.device_seconds += part.device_seconds
        whole.by_operator += part.by_operator
        whole.launches_by_operator += part.launches_by_operator
    return whole


def show(card: GpuLimits, rows: dict[str, Counts]) -> None:
    steps = {name: counts for name, counts in rows.items() if "sampling" not in name}
    print(f"{'':<26}{'launches':>9}{'TFLOP':>9}{'GB':>9}{'ms':>9}{'ms of launches':>16}")
    for name, counts in {**rows, "training step": sum_of(steps)}.items():
        print(
            f"{name:<26}{counts.launches:>9}{counts.flop / 1e12:>9.2f}{counts.bytes / 1e9:>9.1f}"
            f"{1000 * counts.device_seconds:>9.1f}{1000 * counts.launches * card.launch_seconds:>16.1f}"
        )


def show_operators(counts: Counts) -> None:
    for name, moved in counts.by_operator.most_common(SHOWN):
        print(f"  {name:<44}{counts.launches_by_operator[name]:>7} launches {moved / 1e9:>8.1f} GB")


if __name__ == "__main__":
    sys.exit(main())
