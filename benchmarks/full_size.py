"""The published size on this machine: seconds and peak memory of encoding, a training step, sampling and decoding.

    uv run python -m benchmarks.full_size [--seconds 10] [--steps 3] [--rank 64]

Weights are random, so nothing is downloaded: float32 on a CPU (13.2 GB of them), bfloat16 on a GPU.
"""

import argparse
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from common.bases import ACE_STEP_1
from models.acestep1.codec.codec import Codec, CodecConfig, decode_audio
from models.acestep1.codec.vocoder import Vocoder, VocoderConfig
from models.acestep1.sizes import PUBLISHED
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.adapters.lora import attach_lora
from models.device import default_device
from models.flow.conditioning import SourceProjection, VocalSource
from models.flow.sampler import SamplerSettings, sample
from models.loading.weights import without_notes
from models.protocols import FlowNetwork
from prep.config import EncodeConfig
from train.config import TrainingConfig
from train.data.clips import Batch
from train.loop.losses import denoising_loss
from train.loop.module import conditioning_of, encode, estimate
from train.loop.optim import BETAS

LATENTS = ACE_STEP_1.latents

GIB = 2**30
TEXT_TOKENS = 64
LYRIC_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip")
    parser.add_argument("--steps", type=int, default=3, help="sampling steps, each guided (two network passes)")
    parser.add_argument("--rank", type=int, default=64, help="LoRA rank")
    arguments = parser.parse_args()
    device = default_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)

    print(f"{device}, {dtype}, {arguments.seconds:g} s of audio, rank {arguments.rank}")
    samples = int(arguments.seconds * LATENTS.sample_rate_hz)
    with measured("encode a wave", device):
        encode_noise(samples, device)
    with measured("build the transformer", device):
        transformer = random_transformer(device, dtype)
    clip = random_clip(transformer, LATENTS.frames_of(samples), device)
    with measured("one LoRA training step", device):
        training_step(transformer, clip, rank=arguments.rank)
    with measured(f"{arguments.steps} guided sampling steps", device):
        latents = sampling_steps(transformer, clip, steps=arguments.steps)
    del transformer
    with measured("decode to a wave", device):
        decode(latents, dtype)


@contextmanager
def measured(what: str, device: torch.device) -> Generator[None]:
    """Print the seconds that the block took, and the highest memory use during it."""
    reset_peak(device)
    started = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(f"{what:<28} {time.perf_counter() - started:7.1f} s   peak {peak_bytes(device) / GIB:5.1f} GiB", flush=True)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii", newline="\n")  # Linux: lets VmHWM start anew


def peak_bytes(device: torch.device) -> int:
    """Highest memory use since reset_peak: of the GPU, or the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def encode_noise(samples: int, device: torch.device) -> None:
    """A wave as prep encodes it, codec included: in float32, in pieces of the default length."""
    with device, torch.inference_mode():
        codec = Codec(CodecConfig(**without_notes(PUBLISHED.codec)), encoder=True, decoder=False).eval()
        codec.encode(torch.randn(2, samples), longest=EncodeConfig().piece_frames(ACE_STEP_1.latents))


def random_transformer(device: torch.device, dtype: torch.dtype) -> ACEStepTransformer2DModel:
    with default_dtype(dtype), device:
        transformer = ACEStepTransformer2DModel(**without_notes(PUBLISHED.transformer))
    return transformer.eval().requires_grad_(False)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def random_clip(transformer: FlowNetwork, frames: int, device: torch.device) -> Batch:
    """A batch of one clip with noise for music, a prompt and lyrics."""
    latents = torch.randn(3, 1, LATENTS.channels, LATENTS.rows, frames, device=device)
    text = torch.randn(1, TEXT_TOKENS, transformer.spec.text_width, device=device)
    lyrics = torch.full((1, LYRIC_TOKENS), 2, device=device)
    everything = torch.ones(1, frames, device=device)
    return Batch(
        keys=("noise",),
        target=latents[0],
        source=VocalSource(
            vocal=latents[1], conditioner_input=latents[1], activity=everything, strength=torch.ones(1, device=device)
        ),
        text=text,
        text_mask=torch.ones(1, TEXT_TOKENS, dtype=torch.bool, device=device),
        lyric_ids=lyrics,
        lyric_mask=torch.ones_like(lyrics, dtype=torch.bool),
        noise=latents[2],
        timestep=torch.full((1,), 750.0, device=device),
        weight=torch.ones(1, device=device),
        features=(),
    )


def training_step(transformer: ACEStepTransformer2DModel, clip: Batch, *, rank: int) -> None:
    """Forward, backward and optimiser step as `train run` takes them, blocks recomputed in the backward pass."""
    config = TrainingConfig()
    attach_lora(transformer, rank=rank, alpha=rank, target_modules=config.lora.target_modules)
    projection = SourceProjection(128, transformer.inner_width).to(transformer.device)
    trained = [p for p in [*transformer.parameters(), *projection.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=BETAS)
    transformer.enable_gradient_checkpointing()
    objective = conditioning_of(config).make_objective()
    made = estimate(transformer, clip, encode(transformer, clip), objective=objective, conditioner=projection)
    denoising_loss(made.clean, clip.target, clip.source.activity).mean().backward()
    optimizer.step()
    transformer.requires_grad_(False)


def sampling_steps(transformer: ACEStepTransformer2DModel, clip: Batch, *, steps: int) -> Tensor:
    settings = SamplerSettings(steps=steps, guidance="cfg", guidance_interval=1.0)
    with torch.no_grad():
        conditions = encode(transformer, clip)
        return sample(transformer, conditions, conditions, clip.noise, settings)


def decode(latents: Tensor, dtype: torch.dtype) -> None:
    with default_dtype(dtype), latents.device, torch.no_grad():
        codec = Codec(CodecConfig(**without_notes(PUBLISHED.codec)), encoder=False, decoder=True).eval()
        vocoder = Vocoder(VocoderConfig(**without_notes(PUBLISHED.vocoder))).eval()
        decode_audio(codec, vocoder, latents[0].to(dtype))


if __name__ == "__main__":
    main()
