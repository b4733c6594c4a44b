"""A voice, shards that hold it, and adapters on the tiny base whose every weight says something."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.audio.wave import write_audio
from common.bases import ACE_STEP_1, ACE_STEP_15, CONFIG_FILE, BaseOrigin
from common.latents import LatentStatistics
from models.acestep1.sizes import TINY as TINY_SIZES
from models.acestep1.text.encoder import build_network, stored_shapes
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.adapters.adapter import AdapterCard, LoraCard, save_adapter
from models.adapters.conditioning import Conditioning
from models.adapters.lora import attach_lora
from models.flow.sampler import SamplerSettings
from models.loading.checkpoint import BUNDLES, TINY, open_transformer, part_hash
from models.loading.family import describe_base
from models.loading.weights import shapes_of, without_notes
from recipe.random_weights import random_weights
from shards.fingerprint import Fingerprint
from shards.schema import PartLevels, Sample, SegmentMeta, sample_key
from shards.writer import ShardWriter

LATENTS = ACE_STEP_1.latents

VOCAL_LUFS = -20.0
OPENERS = (
    "infer.band.session.open_transformer",
    "infer.band.session.open_codec",
    "infer.band.session.open_text_encoder",
    "infer.band.session.open_decoder",
)


def voice(seconds: float, rate_hz: int) -> np.ndarray:
    """A mono note [1, N] with vibrato that is sung for the first two thirds."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * 220 * time + 0.5 * np.sin(2 * np.pi * 5.5 * time)
    tone = np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.25 * np.sin(3 * phase)
    return (0.1 * tone * (time < seconds * 2 / 3)).astype(np.float32)[None]


def song_sample(song: str, segment: int, frames: int, cut: int = 0) -> Sample:
    """A segment of a made-up vocal; it ends `cut` samples before its last frame does."""
    random = np.random.default_rng(list(sample_key(song, segment).encode()))
    samples = frames * LATENTS.frame_samples - cut
    meta = SegmentMeta(
        key=sample_key(song, segment),
        song=song,
        name=song,
        segment=segment,
        prompt="piano, drums",
        tag_orders=("piano, drums", "drums, piano"),
        lyrics="[verse]",
        sources=(),
        start_seconds=0.0,
        samples=samples,
        seconds=frames / LATENTS.frames_per_second,
        frames=frames,
        lufs=PartLevels(vocal=VOCAL_LUFS),
        gain_db=0.0,
        peak_limited=False,
        separator=None,
        derived=None,
        residual_db=None,
        bleed_db=None,
    )
    return Sample(
        meta=meta,
        vocal=random.standard_normal((8, 16, frames)).astype(np.float16),
        activity=random.choice([0.0, 1.0], frames).astype(np.float16),
        text=random.standard_normal((2, 5, 768)).astype(np.float16),
        text_mask=np.array([[True] * 3 + [False] * 2, [True] * 5]),
        lyrics=np.array([261, 259, 6683, 2], dtype=np.int32),
    )


@pytest.fixture
def make_voice() -> Callable[..., np.ndarray]:
    """make_voice(seconds, rate_hz) is a mono note [1, N]."""
    return voice


@pytest.fixture
def make_song() -> Callable[..., Sample]:
    """make_song("ballad", 0, 12) is a segment of 12 frames, with a vocal and no band."""
    return song_sample


@pytest.fixture
def vocal_file(tmp_path) -> Path:
    """1.5 s of singing, mono, at 48 kHz."""
    path = tmp_path / "ballad_vocal.wav"
    write_audio(path, voice(1.5, 48_000), 48_000)
    return path


@pytest.fixture
def brief_vocal_file(tmp_path) -> Path:
    """0.8 s of it: enough where a band is made."""
    path = tmp_path / "ballad_vocal.wav"
    write_audio(path, voice(0.8, 48_000), 48_000)
    return path


@pytest.fixture
def shards(tmp_path) -> Path:
    """Shards of two songs: "ballad" of two segments (6 and 4 frames), and "hymn" of 2700 frames, over 240 s."""
    with ShardWriter(
        tmp_path / "shards", fingerprint=Fingerprint(settings={}, networks={}, steps={}), targets=()
    ) as writer:
        writer.add([song_sample("ballad", 0, 6), song_sample("ballad", 1, 4, cut=100)])
        writer.add([song_sample("hymn", 0, 2500), song_sample("hymn", 1, 200)])
    return tmp_path / "shards"


def build_adapter(folder: Path, conditioning: Conditioning, *, base: Path = TINY, **changes: Any) -> Path:
    """An adapter folder of a base whose every weight says something; `changes` go to its card."""
    transformer = open_transformer(base)
    attach_lora(transformer, rank=2, alpha=2, target_modules=("to_q", "to_v"))
    conditioner = conditioning.make_conditioner(transformer)
    generator = torch.Generator().manual_seed(7)
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in [*trained, *(conditioner.parameters() if conditioner else [])]:
        parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    changes = {"base_fingerprint": part_hash(base, "ace_step_transformer")} | changes
    save_adapter(folder, transformer, conditioner, make_card(conditioning, **changes))
    return folder


def make_card(conditioning: Conditioning, **changes: Any) -> AdapterCard:
    lora = LoraCard(r=2, lora_alpha=2, use_rslora=True, use_dora=False, target_modules=("to_q", "to_v"), blocks=None)
    values: dict[str, Any] = {
        "conditioning": conditioning,
        "output_type": "accompaniment",
        "reference_strength": 0.6,
        "strength_range": (0.3, 1.0),
        "lora": lora,
        "lora_weight": 0.9,
        "sampler": SamplerSettings(steps=4, guidance_scale=7.0),
        "statistics": LatentStatistics(silence=((0.1,) * 16,) * 8, mean=(0.0,) * 8, std=(1.2,) * 8),
        "vocal_lufs": VOCAL_LUFS,
        "base_fingerprint": "a" * 64,
        "shards_fingerprint": "b" * 64,
        "epoch": 1,
        "step": 20,
    }
    return AdapterCard(**values | changes)


@pytest.fixture
def make_adapter(tmp_path) -> Callable[..., Path]:
    """make_adapter(conditioning, step=9) is an adapter folder of the tiny base; the rest changes the card."""

    def make(conditioning: Conditioning | None = None, **changes: Any) -> Path:
        return build_adapter(tmp_path / "made_adapter", conditioning or Conditioning(), **changes)

    return make


@pytest.fixture(scope="session")
def adapter(tmp_path_factory) -> Path:
    """The default adapter: image2image, 4 steps, strength 0.6, weight 0.9, scale 7."""
    return build_adapter(tmp_path_factory.mktemp("adapter") / "adapter", Conditioning())


@pytest.fixture
def second_shards(tmp_path) -> Path:
    """Shards of the song "ballad": 30 frames of noise for latents, as ACE-Step 1.5 has them."""
    random, frames = np.random.default_rng(0), 30

    def drawn(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float16)

    sample = song_sample("ballad", 0, frames)
    samples = frames * ACE_STEP_15.latents.frame_samples
    sample = replace(
        sample,
        meta=sample.meta.model_copy(update={"samples": samples, "seconds": samples / 48_000}),
        vocal=drawn(64, 1, frames),
        text=drawn(2, 5, 1024),
        lyrics=drawn(6, 1024),
        reduced_lyrics={"structure": drawn(3, 1024), "instrumental": drawn(2, 1024)},
    )
    base, fingerprint = BaseOrigin(model=ACE_STEP_15.name), Fingerprint(settings={}, networks={}, steps={})
    with ShardWriter(tmp_path / "shards", fingerprint=fingerprint, targets=(), base=base) as writer:
        writer.add([sample])
    return tmp_path / "shards"


@pytest.fixture(scope="session")
def second_adapter(tmp_path_factory) -> Path:
    """An adapter of the source slot, on the variant base; all of its weights say something."""
    folder = tmp_path_factory.mktemp("second") / "adapter"
    base, part = BUNDLES["tiny15"], ACE_STEP_15.parts.transformer
    transformer, generator = open_transformer(base), torch.Generator().manual_seed(7)
    attach_lora(transformer, rank=2, alpha=2, target_modules=("to_q", "to_v"))
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    conditioning = Conditioning(mode="context", a_max=0.0, activity_gate=False, source_projection=False)
    card = make_card(
        conditioning,
        statistics={"silence": ((0.0,),) * 64, "mean": (0.0,) * 64, "std": (1.0,) * 64},
        sampler=SamplerSettings.of(ACE_STEP_15.samplings["base"]).model_copy(update={"steps": 2}),
        base=describe_base("tiny15", base, part),
        base_fingerprint=part_hash(base, part),
    )
    save_adapter(folder, transformer, None, card)
    return folder


@pytest.fixture(scope="session")
def style(tmp_path_factory) -> Path:
    """A LoRA of another program for the tiny base, in ComfyUI's layout, without alpha."""
    generator, weights = torch.Generator().manual_seed(11), {}
    for name, layer in open_transformer(TINY).named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(("cross_attn.to_k", "cross_attn.to_v")):
            for half, shape in (("A", (2, layer.in_features)), ("B", (layer.out_features, 2))):
                weights[f"diffusion_model.{name}.lora_{half}.weight"] = 0.2 * torch.randn(shape, generator=generator)
    path = tmp_path_factory.mktemp("style") / "style.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture
def decoder_only(tmp_path) -> Path:
    """A copy of the tiny bundle that cannot encode: no text encoder, no separator, no encoder in the codec's file."""
    folder = tmp_path / "decoder_only"
    for part in ("ace_step_transformer", "music_dcae_f8c8", "music_vocoder"):
        shutil.copytree(TINY / part, folder / part)
    weights = folder / "music_dcae_f8c8" / "diffusion_pytorch_model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("encoder.")}
    save_file(kept, weights)
    return folder


@pytest.fixture
def deep_base(decoder_only) -> Path:
    """decoder_only with networks of random weights that have the blocks which ERG weakens, and a text encoder."""
    transformer = decoder_only / "ace_step_transformer"
    config = TINY_SIZES.transformer | {"num_layers": 20, "lyric_encoder_layers": 6}
    with torch.device("meta"):
        shapes = shapes_of(ACEStepTransformer2DModel(**without_notes(config)))
    write_network(transformer, config, shapes, ACE_STEP_1.weights_file("ace_step_transformer"))
    text = decoder_only / "umt5-base"
    shutil.copytree(TINY / "umt5-base", text)
    config = TINY_SIZES.text_encoder | {"num_layers": 10}
    shapes = stored_shapes(build_network(config, text / CONFIG_FILE))
    write_network(text, config, shapes, ACE_STEP_1.weights_file("umt5-base"))
    return decoder_only


def write_network(folder: Path, config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]], weights: str) -> None:
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    save_file(random_weights(shapes, seed=1), folder / weights)


@pytest.fixture
def opened(monkeypatch) -> Counter:
    """How often each network was opened, by what opens it."""
    counts: Counter[str] = Counter()
    for opener in OPENERS:
        module, _, name = opener.rpartition(".")
        real = getattr(__import__(module, fromlist=[name]), name)

        def counted(*args, real=real, opener=opener, **flags):
            counts[opener] += 1
            return real(*args, **flags)

        monkeypatch.setattr(opener, counted)
    return counts


@pytest.fixture
def hashed(monkeypatch) -> Counter:
    """How often each file was hashed, whoever asked for it."""
    counts: Counter[Path] = Counter()
    digest = hashlib.file_digest

    def counted(file, name):
        counts[Path(file.name)] += 1
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return counts
