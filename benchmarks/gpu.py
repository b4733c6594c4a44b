"""What the published model does on a CUDA device: tests, a training step, sampling, encoding, in one table.

    uv run python -m benchmarks.gpu OUT

In under ten minutes it runs the tests marked gpu, then times the published sizes with random weights, each figure the
median after a warm-up, and writes OUT/gpu.md and OUT/gpu.json with the card's name. `--device cpu --tiny` rehearses
all of it at toy sizes.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.full_size import default_dtype, peak_bytes, random_clip, reset_peak
from common.bases import ACE_STEP_1
from models.acestep1.codec.codec import Codec, CodecConfig
from models.acestep1.sizes import PUBLISHED, TINY
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.adapters.lora import attach_lora
from models.flow.conditioning import SourceProjection
from models.flow.sampler import SamplerSettings, sample
from models.loading.int8 import to_int8
from models.loading.weights import without_notes
from prep.config import EncodeConfig
from train.config import LoRAConfig, TrainingConfig
from train.data.clips import Batch
from train.loop.module import AccompanimentModule, encode
from train.loop.optim import make_optimizer
from train.loop.preparation import compile_blocks, forget_compiled

LATENTS = ACE_STEP_1.latents

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
BaseDtype = Literal["bfloat16", "int8"]
BASE_DTYPES: tuple[BaseDtype, ...] = ("bfloat16", "int8")
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "genre_embedder", "lyric_proj")
TESTS = ("tests/models/test_cuda.py", "tests/train/test_cuda.py")
TEST_SECONDS = 200
"""Longest that the tests may take, so that all takes less than ten minutes."""


@dataclass(frozen=True)
class Workload:
    """How much is done."""

    sizes: Any
    clip_frames: tuple[int, ...]
    rank: int
    codec_seconds: int
    sampling_steps: int
    repeats: int


FULL = Workload(PUBLISHED, (646, 2584), rank=128, codec_seconds=60, sampling_steps=10, repeats=5)
TOY = Workload(TINY, (22,), rank=4, codec_seconds=2, sampling_steps=2, repeats=1)


@dataclass(frozen=True)
class BenchmarkResult:
    """One figure."""

    what: str
    value: float
    unit: str
    peak_gib: float | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for gpu.md and gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no CUDA device. Rehearse with --device cpu --tiny.", file=sys.stderr)
        return 2
    device, scale = torch.device(arguments.device), TOY if arguments.tiny else FULL
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as `train run`
    rows = run_tests()
    for part in (encoding, training, sampling):
        print(f"{part.__name__} ...", flush=True)
        rows += part(device, scale)
        write(arguments.out, device, rows)  # what is there stays, should a later part fail
    print((arguments.out / "gpu.md").read_text(encoding="utf-8"))
    return 0


def run_tests() -> list[BenchmarkResult]:
    """The tests marked gpu; they skip without a CUDA device."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", *TESTS]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=TEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return [BenchmarkResult(f"gpu tests: not done after {TEST_SECONDS} s", -1, "exit status")]
    last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
    print(done.stdout[-4000:] if done.returncode else last, flush=True)
    return [BenchmarkResult(f"gpu tests: {last.strip('= ')}", done.returncode, "exit status")]


def encoding(device: torch.device, scale: Workload) -> list[BenchmarkResult]:
    """Seconds of one part of a song that prep's codec encodes in a second, in float32."""
    with device:
        codec = Codec(CodecConfig(**without_notes(scale.sizes.codec)), encoder=True, decoder=False).eval()
        wave = torch.randn(2, scale.codec_seconds * LATENTS.sample_rate_hz)
    longest = EncodeConfig().piece_frames(ACE_STEP_1.latents)
    with torch.inference_mode():
        row = timed("encode, float32", lambda: codec.encode(wave, longest=longest), device, repeats=scale.repeats)
    return [BenchmarkResult(row.what, scale.codec_seconds / row.value, "s of audio a second", row.peak_gib)]


def training(device: torch.device, scale: Workload) -> list[BenchmarkResult]:
    """Steps with blocks recomputed: each base_dtype and length of a clip, and compiled."""
    rows = []
    for base_dtype in BASE_DTYPES:
        module = make_module(base_dtype, device, scale)
        for frames in scale.clip_frames:
            name = f"training step, {base_dtype}, {frames} frames, rank {scale.rank}"
            rows.append(train_row(module, frames, device, scale, name, compiled=False))
        if base_dtype == "bfloat16":
            frames = scale.clip_frames[-1]
            name = f"training step, {base_dtype}, {frames} frames, rank {scale.rank}"
            rows.append(train_row(module, frames, device, scale, name, compiled=True))
        del module  # before the next is made
    return rows


def train_row(
    module: AccompanimentModule, frames: int, device: torch.device, scale: Workload, name: str, *, compiled: bool
) -> BenchmarkResult:
    batch = random_clip(module.transformer, frames, device)
    optimizer = make_optimizer(list(module.trained.values()), module.config)

    def step() -> None:
        module.losses(batch).total.backward()
        module.on_before_optimizer_step(optimizer)
        module.configure_gradient_clipping(optimizer, module.config.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()

    if compiled:
        compile_blocks(module.transformer)
    try:
        return timed(name + (", compiled" if compiled else ""), step, device, repeats=scale.repeats)
    finally:
        if compiled:
            forget_compiled(module.transformer)


def sampling(device: torch.device, scale: Workload) -> list[BenchmarkResult]:
    """Guided steps, of which each is two passes."""
    module, rows = make_module("bfloat16", device, scale), []
    for frames in scale.clip_frames:
        draw = partial(draw_once, module, random_clip(module.transformer, frames, device), scale.sampling_steps)
        row = timed(f"guided sampling step, bfloat16, {frames} frames", draw, device, repeats=scale.repeats)
        rows.append(BenchmarkResult(row.what, row.value / scale.sampling_steps, row.unit, row.peak_gib))
    return rows


@torch.no_grad()
def draw_once(module: AccompanimentModule, batch: Batch, steps: int) -> Tensor:
    settings = SamplerSettings(steps=steps, guidance_interval=1.0)
    told = module.transformer.prepare(encode(module.transformer, batch))
    return sample(
        module.transformer, told, told, batch.noise, settings, source=batch.source, conditioner=module.conditioner
    )


def make_module(base_dtype: BaseDtype, device: torch.device, scale: Workload) -> AccompanimentModule:
    config = TrainingConfig(
        lora=LoRAConfig(r=scale.rank, target_modules=TARGETS), base_dtype=base_dtype, warmup_steps=0
    )
    with default_dtype(torch.bfloat16), device:
        network = ACEStepTransformer2DModel(**without_notes(scale.sizes.transformer))
    network.requires_grad_(False)
    if base_dtype == "int8":
        to_int8(network)
    network.eval().enable_gradient_checkpointing()
    attach_lora(network, rank=scale.rank, alpha=scale.rank, target_modules=TARGETS)
    return AccompanimentModule(
        config, network, SourceProjection(128, network.inner_width).to(device), base_fingerprint="random"
    )


def timed(what: str, call: Callable[[], object], device: torch.device, *, repeats: int) -> BenchmarkResult:
    """Median seconds of a call after one that does not count, and the most memory that it took."""
    call()
    reset_peak(device)
    taken = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        taken.append(time.perf_counter() - started)
    print(f"  {what}: {median(taken):.3f} s", flush=True)
    return BenchmarkResult(what, median(taken), "s", peak_bytes(device) / GIB)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def write(out: Path, device: torch.device, rows: list[BenchmarkResult]) -> None:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    about = {
        "card": card,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }
    (out / "gpu.json").write_text(
        json.dumps(about | {"rows": list(map(asdict, rows))}, indent=2) + "\n", encoding="utf-8", newline="\n"
    )
    lines = [f"{card}, {about['date']}, torch {about['torch']}:", "", "| | | | peak GiB |", "| --- | --- | --- | --- |"]
    for row in rows:
        peak = "" if row.peak_gib is None else f"{row.peak_gib:.2f}"
        lines.append(f"| {row.what} | {row.value:.3g} | {row.unit} | {peak} |")
    (out / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
