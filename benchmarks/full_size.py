"""The published size on this machine: seconds and peak memory of encoding, a training step, sampling and decoding.

    uv run python -m benchmarks.full_size [--base ace-step-1.5] [--seconds 10] [--steps 3] [--rank 64]

Weights are random, so nothing is downloaded: float32 on a CPU (13.2 GB of them for ACE-Step v1, 8.7 GB for 1.5),
bfloat16 on a GPU.
"""

import argparse
import time
from abc import abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from common.bases import ACE_STEP_1, ACE_STEP_15, BaseSpec
from models.acestep1.codec.codec import Codec, CodecConfig, decode_audio
from models.acestep1.codec.vocoder import Vocoder, VocoderConfig
from models.acestep1.sizes import PUBLISHED as SIZES
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.acestep15.codec import OobleckCodec, OobleckConfig
from models.acestep15.network import AceStep15Network
from models.acestep15.sizes import STANDARD, VAE, network_settings, variant_of
from models.adapters.lora import attach_lora
from models.device import default_device
from models.flow.conditioning import VocalSource
from models.flow.sampler import SamplerSettings, sample
from models.loading.weights import without_notes
from models.protocols import FlowNetwork, LatentCodec
from prep.config import EncodeConfig
from train.config import TrainingConfig
from train.data.clips import Batch
from train.loop.losses import denoising_loss
from train.loop.module import conditioning_of, encode, estimate
from train.loop.optim import BETAS

GIB = 2**30
TEXT_TOKENS = 64
LYRIC_TOKENS = 64


class PublishedBase:
    """What a base model's networks are built with; device and dtype are torch's defaults."""

    spec: BaseSpec

    @abstractmethod
    def transformer(self) -> FlowNetwork: ...

    @abstractmethod
    def codec_encoder(self) -> LatentCodec: ...

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [C, H, T] as a wave [2, N], by a decoder that is built for it."""


class PublishedAceStep1(PublishedBase):
    """ACE-Step v1."""

    spec = ACE_STEP_1

    def transformer(self) -> FlowNetwork:
        return ACEStepTransformer2DModel(**without_notes(SIZES.transformer))

    def codec_encoder(self) -> LatentCodec:
        return Codec(CodecConfig(**without_notes(SIZES.codec)), encoder=True, decoder=False)

    def decode(self, latents: Tensor) -> Tensor:
        codec = Codec(CodecConfig(**without_notes(SIZES.codec)), encoder=False, decoder=True).eval()
        return decode_audio(codec, Vocoder(VocoderConfig(**without_notes(SIZES.vocoder))).eval(), latents)


class PublishedAceStep15(PublishedBase):
    """ACE-Step 1.5, 2 B."""

    spec = ACE_STEP_15

    def transformer(self) -> FlowNetwork:
        return AceStep15Network(network_settings(STANDARD, self.spec.name), variant_of(STANDARD))

    def codec_encoder(self) -> LatentCodec:
        return OobleckCodec(OobleckConfig(**without_notes(VAE)), encoder=True, decoder=False).fold()

    def decode(self, latents: Tensor) -> Tensor:
        codec = OobleckCodec(OobleckConfig(**without_notes(VAE)), encoder=False, decoder=True).fold().eval()
        return codec.decode(latents)


PUBLISHED: Mapping[str, PublishedBase] = {base.spec.name: base for base in (PublishedAceStep1(), PublishedAceStep15())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=PUBLISHED, default=ACE_STEP_1.name, help="base model")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip")
    parser.add_argument("--steps", type=int, default=3, help="sampling steps, each guided (two network passes)")
    parser.add_argument("--rank", type=int, default=64, help="LoRA rank")
    arguments = parser.parse_args()
    base, device = PUBLISHED[arguments.base], default_device()
    latents = base.spec.latents
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)

    print(f"{base.spec.name}, {device}, {dtype}, {arguments.seconds:g} s of audio, rank {arguments.rank}")
    samples = int(arguments.seconds * latents.sample_rate_hz)
    with measured("encode a wave", device):
        encode_noise(base, samples, device)
    with measured("build the transformer", device):
        transformer = random_transformer(base, device, dtype)
    clip = random_clip(transformer, latents.frames_of(samples), device)
    with measured("one LoRA training step", device):
        training_step(transformer, clip, rank=arguments.rank)
    with measured(f"{arguments.steps} guided sampling steps", device):
        made = sampling_steps(transformer, clip, steps=arguments.steps)
    del transformer
    with measured("decode to a wave", device):
        decode(base, made, dtype)


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


def encode_noise(base: PublishedBase, samples: int, device: torch.device) -> None:
    """A wave as prep encodes it, codec included: in float32, in pieces of the default length."""
    with device, torch.inference_mode():
        codec = base.codec_encoder().eval()
        codec.encode(torch.randn(2, samples), longest=EncodeConfig().piece_frames(base.spec.latents))


def random_transformer(base: PublishedBase, device: torch.device, dtype: torch.dtype) -> FlowNetwork:
    with default_dtype(dtype), device:
        transformer = base.transformer()
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
    spec = transformer.spec
    latents = torch.randn(3, 1, spec.latents.channels, spec.latents.rows, frames, device=device)
    text = torch.randn(1, TEXT_TOKENS, spec.text_width, device=device)
    lyrics = torch.full((1, LYRIC_TOKENS), 2, device=device)
    if spec.has_lyric_rows:
        lyrics = torch.randn(1, LYRIC_TOKENS, spec.text_width, device=device)
    everything = torch.ones(1, frames, device=device)
    return Batch(
        keys=("noise",),
        target=latents[0],
        source=VocalSource(
            vocal=latents[1],
            conditioner_input=latents[1],
            activity=everything,
            strength=torch.ones(1, device=device),
            latents=latents[1],
        ),
        text=text,
        text_mask=torch.ones(1, TEXT_TOKENS, dtype=torch.bool, device=device),
        lyric_ids=lyrics,
        lyric_mask=torch.ones(1, LYRIC_TOKENS, dtype=torch.bool, device=device),
        noise=latents[2],
        timestep=torch.full((1,), 750.0, device=device),
        weight=torch.ones(1, device=device),
        features=(),
    )


def training_step(transformer: FlowNetwork, clip: Batch, *, rank: int) -> None:
    """Forward, backward and optimiser step as `train run` takes them, blocks recomputed in the backward pass."""
    config = TrainingConfig().on(transformer.spec)
    attach_lora(transformer, rank=rank, alpha=rank, target_modules=config.lora.target_modules)
    conditioning = conditioning_of(config)
    conditioner = conditioning.make_conditioner(transformer)
    if conditioner is not None:
        conditioner.to(transformer.device)
    own = [] if conditioner is None else list(conditioner.parameters())
    trained = [parameter for parameter in [*transformer.parameters(), *own] if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=BETAS)
    transformer.enable_gradient_checkpointing()
    objective = conditioning.make_objective()
    made = estimate(transformer, clip, encode(transformer, clip), objective=objective, conditioner=conditioner)
    denoising_loss(made.clean, clip.target, clip.source.activity).mean().backward()
    optimizer.step()
    transformer.requires_grad_(False)


def sampling_steps(transformer: FlowNetwork, clip: Batch, *, steps: int) -> Tensor:
    settings = SamplerSettings(steps=steps, guidance="cfg", guidance_interval=1.0)
    with torch.no_grad():
        conditions = encode(transformer, clip)
        return sample(transformer, conditions, conditions, clip.noise, settings)


def decode(base: PublishedBase, latents: Tensor, dtype: torch.dtype) -> None:
    with default_dtype(dtype), latents.device, torch.no_grad():
        base.decode(latents[0].to(dtype))


if __name__ == "__main__":
    main()
