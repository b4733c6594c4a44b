"""What the user asked for, and what becomes of it together with the adapter's card."""

from dataclasses import dataclass
from pathlib import Path

import torch

from common.config import check_config
from common.errors import UserError
from common.progress import say
from infer.record import GenerationSettings
from models.adapter import AdapterCard
from models.checkpoint import Part, resolve_checkpoint


@dataclass(frozen=True, kw_only=True)
class Request:
    """The flags of `infer generate`; None is left to adapter.json, then to the plan."""

    adapter: Path
    vocal: Path | None = None  # either an audio file,
    shards: Path | None = None  # or shards
    key: str | None = None  # and a song in them
    prompt: str | None = None
    lyrics: Path | None = None
    ref_strength: float | None = None
    lora_weight: float | None = None
    guidance_scale: float | None = None
    infer_steps: int | None = None
    seed: int = 0
    num_samples: int = 1
    output_dir: Path = Path("outputs")
    checkpoint_dir: str = "tiny"
    device: str = "auto"


@dataclass(frozen=True)
class Place:
    """Where the networks come from and where they run."""

    base: Path
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the transformer: bfloat16, as published, on a GPU; float32 on a CPU."""
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16


def check_sources(request: Request) -> None:
    """Raises UserError unless the vocal comes from exactly one place."""
    if (request.vocal is None) == (request.shards is None):
        raise UserError("the vocal comes from --vocal FILE or from --shards DIR --key KEY. Give one of the two.")
    if request.vocal is not None and request.key is not None:
        raise UserError("--key names a song of --shards; a --vocal file is one song. Leave --key out.")
    if request.shards is not None and request.key is None:
        raise UserError(f"--shards {request.shards}: which song? Name it with --key (prep inspect lists them).")


def settle(request: Request, card: AdapterCard) -> GenerationSettings:
    """Each number from its flag, else from the adapter's card, else from the plan (the defaults of the card).

    Raises UserError for one out of range; says so where the strength is outside what the adapter was trained with.
    """
    values = {
        "ref_strength": card.reference_strength if request.ref_strength is None else request.ref_strength,
        "lora_weight": card.lora_weight if request.lora_weight is None else request.lora_weight,
        "seed": request.seed,
        "num_samples": request.num_samples,
        "sampler": card.sampler.model_dump() | _given(steps=request.infer_steps, guidance_scale=request.guidance_scale),
    }
    settings = check_config(GenerationSettings, values, "infer generate")
    low, high = card.strength_range
    if settings.ref_strength and not low <= settings.ref_strength <= high:
        say(
            f"--ref-strength {settings.ref_strength:g} is outside the strengths that this adapter was trained with, "
            f"{low:g} to {high:g}: it may follow the vocal less well."
        )
    return settings


def find_place(request: Request) -> Place:
    """The base and the device. Raises UserError for a base without the parts that are needed, or no such device."""
    return Place(resolve_checkpoint(request.checkpoint_dir, _parts(request)), _device(request.device))


def _given(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _parts(request: Request) -> list[Part]:
    """A song of shards with its own prompt needs no text encoder."""
    parts: list[Part] = ["ace_step_transformer", "music_dcae_f8c8", "music_vocoder"]
    return [*parts, "umt5-base"] if request.prompt or request.vocal else parts


def _device(name: str) -> torch.device:
    """The device of a name; "auto" is cuda where there is one, else cpu."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(f"--device {name}: cannot be used ({reason}). Use cpu or cuda.") from None
