"""What one training run is: the adapter and how it is trained, how the vocal enters, how we validate."""

import shlex
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.bases import ACE_STEP_1, BaseSpec
from common.config import Config
from common.errors import UserError
from common.latents import LatentLayout
from common.texts.lyrics import LyricsContent
from models.flow.options import (
    A_MAX,
    A_MAX_LIMIT,
    BRIDGES,
    ControlInjection,
    Mode,
    ObjectiveName,
    OffsetWeight,
)
from shards.location import is_command

TARGET_MODULES = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "speaker_embedder",
    "genre_embedder",
    "lyric_proj",
    "linear_q",
    "linear_k",
    "linear_v",
    "timestep_embedder.linear_1",
    "timestep_embedder.linear_2",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""Linear layers of the transformer that may carry an adapter, by the end of their names; the last three are those of
ACE-Step 1.5's feed-forward networks, those from speaker_embedder on ACE-Step v1's."""

CONTROLNET_NOISE_SHARE = 0.3
"""high_noise_share that a control encoder learns best with."""
LOWEST_STRENGTH = 0.3
"""That training draws unless it is told otherwise."""
LEAST_PRODIGY_RATE = 0.1
"""A smaller learning_rate was meant for AdamW."""

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


class LoRAConfig(Config):
    """Low-rank adapters on the frozen transformer."""

    r: Annotated[int, Field(ge=1, le=1024)] = 256
    """Rank."""
    lora_alpha: Positive = 32
    """The update is scaled by lora_alpha / sqrt(r), or by lora_alpha / r without use_rslora."""
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that carry an adapter, by the end of their names."""
    use_rslora: bool = True
    """Rank-stabilised scale."""
    lora_dropout: Probability = 0.0
    """Dropout on an adapter's input."""
    use_dora: bool = False
    """Learn a magnitude per output beside the low-rank direction (DoRA)."""
    blocks: tuple[int, int] | None = None
    """First and last transformer block that carry adapters, both included; null is all. Other layers are not bound."""

    @field_validator("target_modules")
    @classmethod
    def _known_modules(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in TARGET_MODULES]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} cannot carry an adapter; choose from {', '.join(TARGET_MODULES)}")
        if not names:
            raise ValueError(f"name at least one of {', '.join(TARGET_MODULES)}")
        if len(set(names)) < len(names):
            raise ValueError("a name is given twice")
        return names

    @field_validator("blocks")
    @classmethod
    def _ordered_blocks(cls, blocks: tuple[int, int] | None) -> tuple[int, int] | None:
        if blocks is not None and not 0 <= blocks[0] <= blocks[1]:
            raise ValueError("give the first and the last block, such as [0, 7]")
        return blocks


class LeadSheetConfig(Config):
    """The encoder that a lead sheet goes through (docs/formulation.md, section 8)."""

    depth: Annotated[int, Field(ge=1, le=12)] = 2
    """Blocks."""
    dim: Annotated[int, Field(ge=32, le=2560, multiple_of=32)] = 256
    """Width."""
    dropout: Probability = 0.15
    """Chance that a sample is trained without its lead sheet."""


class AccompanimentConfig(Config):
    """How the vocal conditions the model, and what the model makes of it (docs/formulation.md, sections 3 to 5)."""

    mode: Mode = "image2image"
    """image2image: the vocal enters through the noise and a projection; controlnet: through an encoder of its own;
    context: through the slot that the network has for a source track, the default where it has one (ACE-Step 1.5)."""
    output_type: Literal["accompaniment", "mix"] = "accompaniment"
    """Target: the band alone, or vocal and band together."""
    lyrics_content: LyricsContent | None = None
    """What of a song's lyrics is trained with, and generated with by default: instrumental ([instrumental] alone),
    structure (tags such as [verse]) or words (all). null: words for a mix, instrumental for an accompaniment, which
    sung words would pull towards singing."""
    reference_strength: Probability | None = None
    """Strength r that validation uses and inference uses by default; null is the highest drawn in training. Below it
    the band follows less, 0 ignores the vocal."""
    strength_range: tuple[Probability, Probability] | None = None
    """Strengths drawn in training, uniform; null is [0.3, 1.0], or from reference_strength where that is lower.
    [1, 1] trains at 1, and at 0 where the vocal is left out."""

    objective: ObjectiveName = "bridge_vp"
    """image2image: where the path from noise to band starts (docs/formulation.md, sections 3 and 4)."""
    source_projection: bool = True
    """image2image: the network also sees the vocal through a projection that starts at zero."""
    a_max: Annotated[float, Field(ge=0.0, le=A_MAX_LIMIT)] = A_MAX
    """image2image, bridge_vp: share of the vocal in the starting noise at strength 1; 0 leaves the projection only."""
    offset_weight: OffsetWeight = "1-s"
    """image2image, offset: how strongly the vocal is added to the network's input, as a function of the noise level."""
    strength_dropout: Probability = 0.15
    """image2image, context: chance that a sample is trained without its vocal."""
    latent_noise: Probability = 0.1
    """Standard deviation of the noise added to the vocal that the network sees, against separation bleed."""
    activity_gate: bool = True
    """image2image: frames where nobody sings start from pure noise."""

    control_encoder_depth: Annotated[int, Field(ge=2, le=12)] = 6
    """controlnet: blocks of the control encoder."""
    control_encoder_dim: Annotated[int, Field(ge=128, le=2560, multiple_of=128)] = 1536
    """controlnet: its width; one attention head for each 128."""
    controlnet_scale: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """controlnet: factor on what it adds to the transformer's hidden states."""
    injection_layers: tuple[NotNegative, ...] = (0, 4, 8, 12)
    """controlnet: transformer blocks whose input it is added to; in either mode those of the lead sheet's."""
    control_injection: ControlInjection = "zero"
    """controlnet: a zero-initialised layer for each block, or gated cross normalisation."""
    control_dropout: Probability = 0.1
    """controlnet: chance that a sample is trained without its vocal."""

    lead_sheet: LeadSheetConfig | None = None
    """Whether a lead sheet (tempo, beats, key, chords) conditions the model too: true, or settings of its encoder."""

    @property
    def lyrics(self) -> LyricsContent:
        """What of a song's lyrics is trained with."""
        return self.lyrics_content or ("words" if self.output_type == "mix" else "instrumental")

    @property
    def strengths(self) -> tuple[float, float]:
        """Lowest and highest strength drawn in training."""
        lowest = LOWEST_STRENGTH if self.reference_strength is None else min(LOWEST_STRENGTH, self.reference_strength)
        return self.strength_range or (lowest, 1.0)

    @property
    def default_strength(self) -> float:
        """Strength that validation uses and inference uses by default."""
        return self.strengths[1] if self.reference_strength is None else self.reference_strength

    @property
    def vocal_dropout(self) -> float:
        """Chance that a sample is trained without its vocal, in any mode."""
        return self.control_dropout if self.mode == "controlnet" else self.strength_dropout

    @field_validator("lead_sheet", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return LeadSheetConfig() if value else None
        return value

    @field_validator("injection_layers")
    @classmethod
    def _distinct_layers(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if not layers or len(set(layers)) < len(layers):
            raise ValueError("name at least one block, each once")
        return layers

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.strengths
        if low > high:
            raise ValueError(f"strength_range [{low:g}, {high:g}] is upside down; write the lower strength first")
        if self.reference_strength and not low <= self.reference_strength <= high:
            raise ValueError(
                f"reference_strength {self.reference_strength:g} is outside strength_range [{low:g}, {high:g}]; "
                "widen strength_range, or leave it out"
            )
        if self.mode == "image2image" and self.objective in BRIDGES and not self.source_projection and self.a_max == 0:
            raise ValueError("a_max 0 without source_projection leaves the vocal no way in; set one of them")
        return self


class TrainingConfig(Config):
    """One run of `train run`."""

    retired: ClassVar[Mapping[str, str]] = {
        "speaker_dropout": "shards hold no speaker",
        "ssl_depths": "the base says which blocks its feature losses look at",
    }

    lora: LoRAConfig = LoRAConfig()
    accompaniment: AccompanimentConfig = AccompanimentConfig()

    dataset_path: str = "./data/accompaniment_dataset"
    """Folder of shards that `prep build-shards` wrote, or its http(s):// address, or, on the command line only,
    pipe:COMMAND with {} for names."""
    max_duration: Annotated[float, Field(gt=0.0)] = 240.0
    """Longest clip, in seconds."""
    crop_seconds: Annotated[float, Field(gt=0.0)] | None = None
    """Clips are cut at random to this length, in seconds; null is max_duration."""

    init_from: str | None = None
    """Folder of an adapter to start from, of the same base and shape; its normalisation of vocals stays."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    """Highest learning rate, reached after the warm-up; it falls to 0 at max_steps. A factor on what prodigy finds."""
    max_steps: Positive = 200_000
    """Optimiser steps of the whole run."""
    warmup_steps: NotNegative = 100
    """Optimiser steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-2
    """Decoupled weight decay."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    """All with betas (0.8, 0.9). adamw8bit holds its moments in 8 bits, prodigy finds the learning rate itself."""
    batch_size: Positive = 1
    """Clips in a batch on one device; all have one length."""
    num_workers: NotNegative = 1
    """Threads on each device that read shards ahead of the training step; 0 reads when needed. Changes no result."""
    accumulate_grad_batches: Positive = 1
    """Batches whose gradients make one optimiser step."""
    gradient_clip_val: Annotated[float, Field(ge=0.0)] = 0.5
    """Largest norm of the gradient; 0 does not clip."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Adapters hold a moving average of the weights with this decay; 0 is off."""
    ema_warmup: bool = False
    """The decay begins low and rises, (1 + n) / (10 + n) after n steps, so that the average forgets how it began."""
    base_dtype: Literal["float32", "bfloat16", "int8"] | None = None
    """Number format of the frozen transformer; null is float32 or `--precision`. Adapters are always float32.
    int8: the weights of its blocks and lyric encoder as 8-bit integers, all else in bfloat16."""
    gradient_checkpointing: bool = True
    """Recompute each block in the backward pass: far less memory for about a third more time."""
    compile: bool = False
    """Compile each block with torch.compile: minutes at the start, faster steps. The choice for long runs on a GPU."""

    text_dropout: Probability = 0.15
    """Chance that a clip is trained without its prompt."""
    lyric_dropout: Probability = 0.15
    """Chance that a clip is trained without its lyrics; ACE-Step 1.5 leaves them out with the prompt alone."""
    joint_dropout: Probability = 0.0
    """Chance that a clip is trained without prompt, lyrics, vocal and lead sheet all at once, beside what is left out
    singly."""
    shift: Annotated[float, Field(gt=0.0)] = ACE_STEP_1.shift
    """Shift of the noise levels drawn in training; inference uses the same. ACE-Step 1.5: by default 1."""
    high_noise_share: Probability | None = None
    """Share of clips trained at a noise level of 0.85 to 1, where the layout is decided; the rest as the base was.
    null: 0.3 in mode controlnet, 0 in image2image (docs/objectives.md)."""

    ssl_coeff: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the feature losses, where the shards carry features (`prep build-shards --ssl`)."""
    structure_coeff: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the structure loss: how the target's energy follows the vocal's; 0 is off."""

    seed: NotNegative = 0
    """Everything random in the run follows from it."""
    val_fraction: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """Share of songs kept for validation, chosen by a hash of the song; 0 trains on all."""
    val_every_n_steps: Positive = 2000
    """Optimiser steps between two validations; one more follows the last step."""
    early_stop_patience: NotNegative = 0
    """Stop after this many validations in a row without a better val/x0_gain; 0 is off."""
    render_every_n_steps: NotNegative = 0
    """Optimiser steps between two renderings of validation songs as audio and mel images in TensorBoard; 0 is off."""

    checkpoint_every_n_steps: Positive = 2000
    """Optimiser steps between two checkpoints; one more follows the last step."""
    exp_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "accompaniment_lora"
    """Name of the experiment: runs go to logger_dir/exp_name/version_N."""
    logger_dir: str = "./exps/logs/"
    """Folder of all experiments."""

    @property
    def noise_share(self) -> float:
        """Share of clips trained near pure noise."""
        by_mode = CONTROLNET_NOISE_SHARE if self.accompaniment.mode == "controlnet" else 0.0
        return by_mode if self.high_noise_share is None else self.high_noise_share

    @property
    def meant_by_null(self) -> dict[str, Any]:
        """What null stands for under the other settings, by dotted name, as JSON has it."""
        unset = self.accompaniment.model_copy(update={"lyrics_content": None, "strength_range": None})
        return {
            "high_noise_share": self.model_copy(update={"high_noise_share": None}).noise_share,
            "crop_seconds": self.max_duration,
            "accompaniment.lyrics_content": unset.lyrics,
            "accompaniment.reference_strength": self.accompaniment.strengths[1],
            "accompaniment.strength_range": list(unset.strengths),
        }

    @classmethod
    def check_file(cls, values: dict[str, Any]) -> None:
        """A file from elsewhere must not run a command."""
        place = values.get("dataset_path")
        if isinstance(place, str) and is_command(place):
            raise ValueError(
                f"dataset_path {place!r} runs a command, which only you may give. Leave it out and use --shards "
                f"{shlex.quote(place)}"
            )

    def on(self, spec: BaseSpec) -> Self:
        """The same run on a base model: what was left open is as that wants it.

        Raises UserError for a mode that it has no network for.
        """
        chosen = self.accompaniment.mode if "mode" in self.accompaniment.model_fields_set else None
        mode = chosen or ("context" if spec.has_source_slot else self.accompaniment.mode)
        if mode == "context" and not spec.has_source_slot:
            raise UserError(f"accompaniment.mode context: {spec.name} has no slot for a source. Choose another mode.")
        changes: dict[str, Any] = {"accompaniment": self.accompaniment.model_copy(update={"mode": mode})}
        if "shift" not in self.model_fields_set:
            changes["shift"] = spec.shift
        if not spec.has_feature_losses:
            changes["ssl_coeff"] = 0.0
        return self.model_copy(update=changes)

    def crop_frames(self, latents: LatentLayout) -> int:
        """Longest clip in latent frames."""
        return max(1, round((self.crop_seconds or self.max_duration) * latents.frames_per_second))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.crop_seconds is not None and self.crop_seconds > self.max_duration:
            raise ValueError(
                f"crop_seconds {self.crop_seconds:g} is longer than max_duration {self.max_duration:g}; "
                "shorten the first or lengthen the second"
            )
        if self.optimizer == "prodigy" and self.learning_rate < LEAST_PRODIGY_RATE:
            raise ValueError(
                f"optimizer prodigy finds the learning rate and takes learning_rate as a factor on it, which "
                f"{self.learning_rate:g} would make tiny; set learning_rate to 1"
            )
        if self.base_dtype == "int8" and self.lora.use_dora:
            raise ValueError("lora.use_dora needs the base's weights as they are; set base_dtype to bfloat16")
        return self
