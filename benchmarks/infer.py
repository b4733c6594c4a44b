"""What `infer generate` takes: time outside its networks, real-time factor, and peak memory by the vocal's length.

    uv run python -m benchmarks.infer [--seconds 10] [--steps 60] [--tiny]
    uv run python -m benchmarks.infer --minutes 4 6

Time is of the CPU, on one thread, from open networks to written files; inside are the transformer with what a fresh
adapter adds to it, the codec's decoder and the vocoder. The transformer has 12 blocks of width 512 and random weights,
a fiftieth of the published one; the tiny bundle's (--tiny) answers so soon that writing the files shows beside it.

Memory is the kernel's peak (VmHWM, so Linux only) above what a process holds that has generated before, each length in
processes of its own, with the tiny bundle; of two runs the lower counts, for what the allocator keeps varies by 15 %.
"""

import argparse
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar

import soundfile
import torch
from safetensors.torch import save_file

from benchmarks.prep import MIB, music, peak, reset_peak
from common.bases import ACE_STEP_1, CONFIG_FILE
from common.latents import LatentStatistics
from infer.band.generate import generate, write_results
from infer.band.inputs import read_inputs
from infer.band.session import Session
from infer.request.plan import plan_generation
from infer.request.request import GenerationRequest
from models.acestep1.codec.decoder import MelDecoder
from models.acestep1.sizes import TINY as TINY_SIZES
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.adapters.adapter import AdapterCard, LoraCard, save_adapter
from models.adapters.conditioning import Conditioning
from models.adapters.lora import attach_lora
from models.loading.acestep1 import open_transformer
from models.loading.checkpoint import TINY, part_hash
from models.loading.weights import shapes_of, without_notes
from recipe.random_weights import random_weights

PARTS = ACE_STEP_1.parts

LATENTS = ACE_STEP_1.latents

MEMORY_RUNS = 2
MOST = 0.03
"""Target: share of the time outside the networks."""
LARGER = {"num_layers": 12, "num_attention_heads": 8, "attention_head_dim": 64}
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass
class NetworkTimer:
    """Seconds spent in what it watches."""

    seconds: float = 0.0
    _running: bool = field(default=False, init=False)

    def watch(self, call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """The same call; what it calls in turn that is watched, too, counts once."""

        def watched(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            if self._running:
                return call(*arguments, **options)
            self._running, start = True, time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                self._running = False
                self.seconds += time.process_time() - start

        return watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the vocal")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tiny", action="store_true", help="time the tiny bundle")
    parser.add_argument("--minutes", type=float, nargs="+", help="measure memory for vocals so long, instead of time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.minutes:
        print_memory(arguments.minutes)
    else:
        print_time(arguments.seconds, arguments.steps, tiny=arguments.tiny)


def print_time(seconds: float, steps: int, *, tiny: bool) -> None:
    with TemporaryDirectory() as folder:
        base = TINY if tiny else write_base(Path(folder) / "base")
        generate(make_request(Path(folder) / "warm", 2.0, steps=2, base=base))  # loads what is loaded late
        request = make_request(Path(folder), seconds, steps, base=base)
        plan, inside = plan_generation(request), NetworkTimer()
        session = Session()
        with read_inputs(plan, session) as inputs:
            band = session.sampler(plan.runtime, plan.selection.folders, plan.selection.weights)
            decoder = session.decoder(plan.runtime)
            assert isinstance(decoder, MelDecoder)
            for network, name in (
                (band.transformer, "encode"),
                (band.transformer, "prepare"),
                (band.transformer, "decode"),
                (band.adapters.conditioner, "injections"),
                (decoder.codec, "decode_mel"),
                (decoder.vocoder, "forward"),
            ):
                setattr(network, name, inside.watch(getattr(network, name)))
            start = time.process_time()
            write_results(plan, inputs, session.draw(plan, inputs.vocal, inputs.text, shown=False), session)
            total = time.process_time() - start
    share = 1 - inside.seconds / total
    print(f"{steps} steps for {seconds:g} s: {total:.1f} s, {total / seconds:.3f} of real time")
    print(f"outside transformer and decoder: {share:.1%}   (target at most {MOST:.0%})")


def print_memory(minutes: list[float]) -> None:
    first = None
    for length in minutes:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            taken = min(pool.map(memory_of, [60 * length] * MEMORY_RUNS, chunksize=1))
        first = first or taken
        print(f"{length:g} min: {taken / MIB:.0f} MiB, {taken / first:.2f} x the first")


def memory_of(seconds: float) -> int:
    """Peak bytes, above what is held between two generations, of a vocal of so many seconds."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        generate(make_request(Path(folder) / "warm", 2.0, steps=2))
        request = make_request(Path(folder), seconds, steps=2)
        held = reset_peak()
        generate(request)
        return peak() - held


def make_request(folder: Path, seconds: float, steps: int, *, base: Path = TINY) -> GenerationRequest:
    """A vocal and a fresh adapter, both in `folder`."""
    folder.mkdir(exist_ok=True)
    vocal = folder / "song_vocal.wav"
    with soundfile.SoundFile(vocal, "w", LATENTS.sample_rate_hz, 2, "PCM_16") as file:
        for _, sung in music(seconds):
            file.write(sung)
    return GenerationRequest(
        adapters=(make_adapter(folder / "adapter", base),),
        vocal=vocal,
        prompt="piano, drums",
        infer_steps=steps,
        output_dir=folder / "out",
        checkpoint_dir=str(base),
        device="cpu",
    )


def write_base(folder: Path) -> Path:
    """The tiny bundle around a larger transformer of random weights."""
    for part in (PARTS.codec, PARTS.vocoder, PARTS.text_encoder):
        shutil.copytree(TINY / part, folder / part)
    config = TINY_SIZES.transformer | LARGER
    with torch.device("meta"):
        shapes = shapes_of(ACEStepTransformer2DModel(**without_notes(config)))
    transformer = folder / PARTS.transformer
    transformer.mkdir()
    (transformer / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8", newline="\n")
    save_file(random_weights(shapes, seed=1), transformer / ACE_STEP_1.weights_file(PARTS.transformer))
    return folder


def make_adapter(folder: Path, base: Path) -> Path:
    transformer, conditioning = open_transformer(base), Conditioning()
    attach_lora(transformer, rank=8, alpha=8, target_modules=TARGETS)
    card = AdapterCard(
        conditioning=conditioning,
        output_type="accompaniment",
        strength_range=(0.3, 1.0),
        lora=LoraCard(r=8, lora_alpha=8, use_rslora=True, use_dora=False, target_modules=TARGETS, blocks=None),
        statistics=LatentStatistics(silence=((0.0,) * 16,) * 8, mean=(0.0,) * 8, std=(1.0,) * 8),
        vocal_lufs=-20.0,
        base_fingerprint=part_hash(base, PARTS.transformer),
        shards_fingerprint="",
        epoch=0,
        step=0,
    )
    save_adapter(folder, transformer, conditioning.make_conditioner(transformer), card)
    return folder


if __name__ == "__main__":
    main()
