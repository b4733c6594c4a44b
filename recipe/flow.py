"""The transformer and its text encoder, trained together on flow matching: tags to songs of the made-up world.

B clips, C latent channels (8), H latent rows (16), T latent frames, S text tokens, L lyric tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import UMT5Config, UMT5EncoderModel

from common.bases import ACE_STEP_1
from common.config import Config
from common.files import whole_file
from common.progress import progress
from models.acestep1.sizes import TINY
from models.acestep1.text.encoder import TextEncoder
from models.acestep1.text.lyric_tokens import INSTRUMENTAL, encode_lyrics
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.flow.conditioning import pack_conditions
from models.flow.schedule import TIMESTEPS, add_noise, clean_estimate, draw_timesteps
from models.loading.weights import without_notes
from models.protocols import Conditions
from recipe.convolutions import lay_channels_last
from recipe.corpus import AudioName, Corpus
from recipe.tokenizer import make_tokenizer, world_texts
from train.fitting import Draws, Trained, TrainingSettings, fit

Target = Literal["inst", "mix"]
TARGETS: Sequence[Target] = ("inst", "mix")
IDLE = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "projectors")
"""Weights that every checkpoint holds and that flow matching does not touch."""
FORGETTABLE = ("bpm", "key", "calm", "energetic")
"""Endings of tags that a prompt may lack."""


class ClipSettings(Config):
    """What any base's transformer is shown."""

    training: TrainingSettings
    shortest_frames: Annotated[int, Field(ge=1)]
    """Shortest crop; half of the steps see whole songs."""
    text_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    tag_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """How often each of a prompt's FORGETTABLE tags is left out, and of a key that stays its tonic."""


class FlowSettings(ClipSettings):
    training: TrainingSettings = TrainingSettings(
        steps=9000, batch=16, learning_rate=1e-3, warmup_steps=500, average_decay=0.9995
    )
    shortest_frames: Annotated[int, Field(ge=1)] = 48
    lyric_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    shift: float = ACE_STEP_1.shift
    """How far the timesteps are bent towards noise."""


class TextConditionedFlow(nn.Module):
    """The transformer and the text encoder that it listens to."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = ACEStepTransformer2DModel(**without_notes(TINY.transformer))
        network = UMT5EncoderModel(UMT5Config(**TINY.text_encoder))
        self.text = TextEncoder(network, make_tokenizer(TINY.text_encoder["vocab_size"], world_texts()))
        for name, parameter in self.transformer.named_parameters():
            if any(part in name for part in IDLE):
                parameter.requires_grad_(False)
        nn.init.zeros_(self.transformer.final_layer.linear.weight)


def conditions(
    transformer: ACEStepTransformer2DModel,
    text_encoder: TextEncoder,
    prompts: Sequence[str],
    lyrics: Sequence[Tensor],
    *,
    text_kept: Tensor,
    lyric_kept: Tensor,
) -> Conditions:
    """Conditions of the transformer. lyrics: per item [L] int; text_kept, lyric_kept: bool [B], False for none."""
    text, device = text_encoder.embed(prompts), text_kept.device
    ids = pad_sequence(list(lyrics), batch_first=True).to(device)
    real = pad_sequence([torch.ones(len(row)) for row in lyrics], batch_first=True).to(device)
    return pack_conditions(
        transformer.encode(
            text.states * text_kept[:, None, None],
            text.mask,
            torch.zeros(len(prompts), transformer.speaker_embedder.in_features, device=device),
            ids * lyric_kept[:, None],
            real * lyric_kept[:, None],
        )
    )


@dataclass(frozen=True)
class LatentSongs:
    """The songs to train on, encoded."""

    latents: np.ndarray  # float16 [songs, parts, C, H, T], the first two of them TARGETS
    prompts: Sequence[str]
    lyrics: Sequence[str]


@torch.no_grad()
def encode_songs(
    folder: Path, encode: Callable[[np.ndarray], Tensor], corpus: Corpus, parts: Sequence[AudioName] = TARGETS
) -> LatentSongs:
    """Latents of every song to train on, one file each; files that are there stay.

    `encode` takes a wave of the corpus [2, N] and gives [C, H, T].
    """
    seeds = corpus.train_seeds
    missing = [seed for seed in seeds if not _latents_path(folder, seed).is_file()]
    with progress(len(seeds), "latents", "songs", done=len(seeds) - len(missing)) as done:
        for seed in missing:
            song = corpus.song(seed)
            latents = torch.stack([encode(song.audio(part)) for part in parts])
            with whole_file(_latents_path(folder, seed)) as partial, partial.open("wb") as file:
                np.save(file, latents.half().cpu().numpy())
            done.update()
    truths = [corpus.truth(seed) for seed in seeds]
    return LatentSongs(
        np.stack([np.load(_latents_path(folder, seed)) for seed in seeds]),
        [truth.prompt for truth in truths],
        [truth.lyrics for truth in truths],
    )


def _latents_path(folder: Path, seed: int) -> Path:
    return folder / f"{seed:06d}.npy"


def train_flow(
    folder: Path, network: TextConditionedFlow, songs: LatentSongs, settings: FlowSettings, *, seed: int
) -> Trained:
    device = next(network.parameters()).device
    lay_channels_last(network)
    batch = settings.training.batch

    def losses(draws: Draws) -> dict[str, Tensor]:
        rng = draws.numpy
        drawn = draw_batch(songs, settings, rng)
        conditioning = conditions(
            network.transformer,
            network.text,
            drawn.prompts,
            drawn.lyrics,
            text_kept=torch.from_numpy(rng.random(batch) >= settings.text_dropout).to(device),
            lyric_kept=torch.from_numpy(rng.random(batch) >= settings.lyric_dropout).to(device),
        )
        clean = drawn.latents.to(device)
        noise = torch.randn(clean.shape, generator=draws.torch, device=device)
        timestep = draw_timesteps(batch, shift=settings.shift, generator=draws.torch)
        state = add_noise(clean, noise, timestep / TIMESTEPS)
        velocity = network.transformer.decode(state, timestep, conditioning).sample
        return {"flow": functional.mse_loss(clean_estimate(state, velocity, timestep / TIMESTEPS), clean)}

    return fit(folder, network, losses, settings.training, about=settings, seed=seed)


@dataclass(frozen=True)
class FlowBatch:
    """One batch."""

    latents: Tensor  # [B, C, H, T]
    prompts: Sequence[str]
    lyrics: Sequence[Tensor]  # per clip [L] int


def draw_batch(songs: LatentSongs, settings: FlowSettings, rng: np.random.Generator) -> FlowBatch:
    """Clips of one length."""
    clips = draw_clips(songs, settings, rng)
    latents = torch.from_numpy(np.stack([clip.latents for clip in clips]))
    return FlowBatch(latents, [clip.prompt for clip in clips], [word_ids(clip.lyrics) for clip in clips])


@dataclass(frozen=True)
class SongClip:
    """A crop of a song, and what is asked for."""

    parts: np.ndarray  # float32 [parts, C, H, T]
    target: Target
    prompt: str
    lyrics: str

    @property
    def latents(self) -> np.ndarray:
        """Those of the target. [C, H, T]"""
        return self.parts[TARGETS.index(self.target)]


def draw_clips(songs: LatentSongs, settings: ClipSettings, rng: np.random.Generator) -> list[SongClip]:
    """A batch of crops of one length: whole songs half of the time."""
    whole = songs.latents.shape[-1]
    frames = whole if rng.random() < 0.5 else int(rng.integers(min(settings.shortest_frames, whole), whole + 1))
    clips = []
    for _ in range(settings.training.batch):
        song, target = int(rng.integers(len(songs.prompts))), TARGETS[int(rng.integers(len(TARGETS)))]
        start = int(rng.integers(whole - frames + 1))
        parts = songs.latents[song, ..., start : start + frames].astype(np.float32)
        prompt = draw_prompt(songs.prompts[song], target, settings.tag_dropout, rng)
        clips.append(SongClip(parts, target, prompt, draw_lyrics(songs.lyrics[song], target, rng)))
    return clips


def draw_prompt(prompt: str, target: Target, dropout: float, rng: np.random.Generator) -> str:
    """The tags of a target, in any order, some left out or less exact."""
    tags = [tag for tag in tags_of(prompt, target) if not (tag.endswith(FORGETTABLE) and rng.random() < dropout)]
    tags = [mode_alone(tag) if tag.endswith("key") and rng.random() < dropout else tag for tag in tags]
    return ", ".join(rng.permutation(tags) if rng.random() < 0.75 else tags)


def mode_alone(tag: str) -> str:
    """ "minor key" of "A minor key"."""
    return tag.partition(" ")[2]


def tags_of(prompt: str, target: Target) -> list[str]:
    """The tags of a song; those of its accompaniment name no vocal."""
    return [tag for tag in prompt.split(", ") if target == "mix" or not tag.endswith("vocal")]


def draw_lyrics(lyrics: str, target: Target, rng: np.random.Generator) -> str:
    """A song's sections; an accompaniment is as often just [instrumental]."""
    return INSTRUMENTAL if target == "inst" and rng.random() < 0.5 else lyrics


def word_ids(lyrics: str) -> Tensor:
    """Token ids of lyrics: [L] int64"""
    return torch.from_numpy(encode_lyrics(lyrics, None).ids).long()
