"""The transformer, its condition encoder and the text encoder, trained together on flow matching.

Text to music, as upstream trains it, with the words left out of some clips; and some clips are made of a source, so
that the slot for it means something before an adapter is trained.

B clips, C latent channels (64), T latent frames.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3Config, Qwen3Model

from common.bases import ACE_STEP_15
from common.texts.tags import tags_of
from models.acestep15.network import AceStep15Network
from models.acestep15.prompts import TEXT2MUSIC, complete, lyrics_of, lyrics_prompt, text_prompt
from models.acestep15.sizes import TINY_TEXT_ENCODER, TINY_TRANSFORMER, network_settings, variant_of
from models.acestep15.text import QwenTextEncoder
from models.flow.schedule import TIMESTEPS, add_noise, clean_estimate, draw_timesteps
from models.loading.weights import without_notes
from models.protocols import Conditions
from recipe.corpus import AudioName
from recipe.flow import TARGETS, ClipSettings, LatentSongs, SongClip, Target, draw_clips
from recipe.tiny15.tokenizer import make_prompt_tokenizer
from train.fitting import Draws, Trained, TrainingSettings, fit

LATENTS = ACE_STEP_15.latents
VARIANT = "base"
ENCODED: Sequence[AudioName] = (*TARGETS, "vocal")
"""What is encoded of each song."""
UNUSED = "condition_encoder.timbre_encoder.special_token"
"""A weight that every checkpoint holds and that diffusers' network does not touch."""
SOURCES: Mapping[Target, Sequence[int]] = {
    "mix": tuple(ENCODED.index(part) for part in ("vocal", "inst")),
    "inst": (ENCODED.index("vocal"),),
}
"""Parts that each target is made from."""


class PromptedFlowSettings(ClipSettings):
    training: TrainingSettings = TrainingSettings(
        steps=8000, batch=8, learning_rate=1e-3, warmup_steps=300, average_decay=0.999
    )
    shortest_frames: Annotated[int, Field(ge=1)] = 100
    mix_source_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the mixes that get their vocal or their accompaniment as the source, and the words of that task."""
    inst_source_share: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Share of the accompaniments that get the vocal so."""


class PromptedFlow(nn.Module):
    """The transformer with its condition encoder, and the text encoder that it listens to.

    `silence` [1, T, C] are latents of silence, which stand in the slot for a source where there is none.
    """

    def __init__(self, silence: Tensor) -> None:
        super().__init__()
        self.network = AceStep15Network(network_settings(TINY_TRANSFORMER, "tiny"), variant_of(TINY_TRANSFORMER))
        self.network.condition_encoder.silence_latent.copy_(silence)
        tokenizer = make_prompt_tokenizer(TINY_TEXT_ENCODER["vocab_size"])
        words = Qwen3Model(Qwen3Config(**without_notes(TINY_TEXT_ENCODER)))
        nn.init.normal_(words.embed_tokens.weight)  # from 0.02 all words would drift the same way, and be one
        self.text = QwenTextEncoder(words, tokenizer)
        self.network.get_parameter(UNUSED).requires_grad_(False)
        pass_the_state(self.network)


@torch.no_grad()
def pass_the_state(network: AceStep15Network) -> None:
    """Let the transformer begin by giving back the noisy latents that it gets, with a way of its own for each number of
    a token: most of a velocity is the noise, and layers hardly wider than a token would learn little but that.
    """
    ways_in, ways_out = (network.transformer.get_parameter(f"proj_{way}_conv.weight") for way in ("in", "out"))
    state = ways_in[:, -LATENTS.channels :]  # [I, C, frames of a token], behind source and mask
    ways = nn.init.orthogonal_(torch.empty(len(state), state[0].numel())).view_as(state)
    state.copy_(ways)
    ways_out.copy_(ways)
    nn.init.zeros_(network.transformer.get_parameter("proj_out_conv.bias"))


def conditions(
    network: AceStep15Network, text: QwenTextEncoder, prompts: Sequence[str], lyrics: Sequence[str], *, kept: Tensor
) -> Conditions:
    """Conditions of text to music; an item that is not `kept`, bool [B], gets the null condition."""
    states = text.embed(prompts)
    rows = text.lyric_rows([lyrics_prompt(lyrics_of(words)["words"]) for words in lyrics])
    return network.condition(states.states * kept[:, None, None], states.mask, rows.states, rows.mask)


def train_prompted_flow(
    folder: Path, flow: PromptedFlow, songs: LatentSongs, settings: PromptedFlowSettings, *, seed: int
) -> Trained:
    hear_silence_once(flow.network)
    network, batch = flow.network, settings.training.batch

    def losses(draws: Draws) -> dict[str, Tensor]:
        rng = draws.numpy
        clips = draw_clips(songs, settings, rng)
        sources = [draw_source(clip, settings, rng) for clip in clips]
        prompts = [
            worded(clip.prompt, clip.latents.shape[-1], completes=source is not None)
            for clip, source in zip(clips, sources, strict=True)
        ]
        kept = torch.from_numpy(rng.random(batch) >= settings.text_dropout)
        words = conditions(network, flow.text, prompts, [clip.lyrics for clip in clips], kept=kept)
        clean = torch.from_numpy(np.stack([clip.latents for clip in clips]))
        silence = network.silence(clean.shape[-1])[0]
        source = torch.stack([silence if part is None else torch.from_numpy(part) for part in sources])
        noise = torch.randn(clean.shape, generator=draws.torch)
        levels = ACE_STEP_15.noise_levels[VARIANT]
        timestep = draw_timesteps(batch, shift=ACE_STEP_15.shift, generator=draws.torch, levels=levels)
        state = add_noise(clean, noise, timestep / TIMESTEPS)
        made = network.decode(state, timestep, network.with_source(words, source)).sample
        return {"flow": functional.mse_loss(clean_estimate(state, made, timestep / TIMESTEPS), clean)}

    return fit(folder, flow, losses, settings.training, about=settings, seed=seed)


def worded(prompt: str, frames: int, *, completes: bool = False) -> str:
    """The template for a prompt of tags, of a clip that `completes` a source or of text to music."""
    instruction = complete() if completes else TEXT2MUSIC
    return text_prompt(tags_of(prompt), seconds=frames / LATENTS.frames_per_second, instruction=instruction)


def draw_source(clip: SongClip, settings: PromptedFlowSettings, rng: np.random.Generator) -> np.ndarray | None:
    """Latents of what is to be completed, or None for text to music. [C, H, T]"""
    share = settings.mix_source_share if clip.target == "mix" else settings.inst_source_share
    return clip.parts[rng.choice(SOURCES[clip.target])] if rng.random() < share else None


def hear_silence_once(network: AceStep15Network) -> None:
    """Let the timbre encoder read the reference, which is silence for every item, for one of them alone."""
    encoder = network.condition_encoder.timbre_encoder
    read = encoder.forward

    def read_once(packed: Any, order: Any) -> tuple[Tensor, Tensor]:
        timbre, mask = read(packed[:1], order[:1])
        return timbre.expand(len(order), -1, -1), mask.expand(len(order), -1)

    encoder.forward = read_once  # ty: ignore[invalid-assignment]
