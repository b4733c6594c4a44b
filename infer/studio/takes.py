"""Takes: bands for one vocal from one order, one after the other, each kept as soon as it is whole."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from common.config import Config
from infer.band.generate import check_disk_space, write_results
from infer.band.inputs import read_inputs
from infer.band.session import Session
from infer.request.again import earlier_take
from infer.request.plan import plan_generation
from infer.request.request import GenerationRequest, Precision, resolve_settings, select_adapters
from infer.request.text_inputs import NO_PROMPT
from infer.studio.folders import LEAD_SHEET, SessionFolders, StudioSession
from models.adapters.adapter import read_card
from models.adapters.harmoniser import find_harmoniser

MOST_TAKES = 6
MOST_STEPS = 200
LONGEST_PROMPT = 1000
LARGEST_SEED = 2**31 - 1
"""A browser's numbers are exact beyond it, and those that are typed end before."""


class AgainOrder(Config):
    """Which region of which take is made anew, in seconds."""

    take: str
    start: Annotated[float, Field(ge=0)]
    end: Annotated[float, Field(ge=0)]


class TakeOrder(Config):
    """What a person asks for; what is null comes from the adapter, else from the default."""

    prompt: Annotated[str, Field(max_length=LONGEST_PROMPT)] = ""
    takes: Annotated[int, Field(ge=1, le=MOST_TAKES)] = 3
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED - MOST_TAKES)] = 0
    """Of the first take; the others count up from it."""
    strength: Annotated[float, Field(ge=0, le=1)] | None = None
    weight: Annotated[float, Field(ge=0, le=2)] | None = None
    """Of the adapter's LoRA; of several, shared among them."""
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    again: AgainOrder | None = None
    """The rest stays as it is; null for whole takes."""

    @field_validator("prompt")
    @classmethod
    def _one_line(cls, prompt: str) -> str:
        return " ".join("".join(letter if letter.isprintable() else " " for letter in prompt).split())


@dataclass(frozen=True)
class BandSource:
    """The networks that a studio's bands come from."""

    adapters: tuple[Path, ...] = ()
    checkpoint_dir: str | None = None
    device: str = "auto"
    precision: Precision | None = None

    @property
    def checkpoint(self) -> str | None:
        """The tiny bundle where neither a base nor an adapter is named."""
        return self.checkpoint_dir or (None if self.adapters else "tiny")

    @property
    def takes_lead_sheet(self) -> bool:
        """Whether its bands follow one. Raises UserError for an adapter that cannot be read."""
        return any(read_card(folder).conditioning.lead_sheet is not None for folder in self.adapters)

    @property
    def harmoniser(self) -> Path:
        """What infers lead sheets of recordings. Raises UserError for an adapter whose own cannot be read."""
        return find_harmoniser(self.adapters, [read_card(folder) for folder in self.adapters])

    def request(self, order: TakeOrder, vocal: Path, folder: Path) -> GenerationRequest:
        """What `infer generate` would be asked for the first take.

        The lead sheet and the records of takes lie beside the vocal.
        """
        sheet = vocal.with_name(LEAD_SHEET)
        weight, count, again = order.weight, len(self.adapters), order.again
        return GenerationRequest(
            adapters=self.adapters,
            vocal=vocal,
            prompt=order.prompt or NO_PROMPT,
            lead_sheet=sheet if sheet.is_file() and self.takes_lead_sheet else None,
            ref_strength=order.strength if self.adapters else None,
            lora_weights=() if weight is None or not count else (weight / count,) * count,
            infer_steps=order.steps,
            again=None if again is None else vocal.with_name(f"{again.take}.json"),
            again_from=None if again is None else again.start,
            again_to=None if again is None else again.end,
            seed=order.seed,
            output_dir=folder,
            checkpoint_dir=self.checkpoint,
            device=self.device,
            precision=self.precision,
        )

    def defaults(self) -> TakeOrder:
        """What an order that says nothing becomes.

        Raises UserError for an adapter that cannot be read, and where no base is known.
        """
        request = self.request(TakeOrder(), Path("voice.wav"), Path())
        selection = select_adapters(request)
        settings = resolve_settings(request, selection)
        return TakeOrder(
            strength=settings.ref_strength,
            weight=sum(settings.lora_weights) if self.adapters else None,
            steps=min(settings.sampler.steps, MOST_STEPS),
        )


def check_order(source: BandSource, order: TakeOrder, session: StudioSession) -> None:
    """Raises UserError for a take that is not there, MissingError, and a region that is none of it."""
    if order.again is not None:
        session.take(order.again.take)
        earlier_take(source.request(order, session.vocal, session.folder))


def make_takes(
    source: BandSource,
    order: TakeOrder,
    session: StudioSession,
    folders: SessionFolders,
    networks: Session,
    on_take: Callable[[int], None] = lambda number: None,
) -> Iterator[str]:
    """The names of an order's takes, each once it is kept; `on_take` is called before each with its number, from 0.

    The vocal and the prompt are encoded once. Raises UserError as `infer generate` does, and SessionCancelledError
    where the networks' session is asked to stop: what was kept stays.
    """
    making = folders.making()
    try:
        request = source.request(order, session.vocal, making)
        plan = plan_generation(request)
        with read_inputs(plan, networks) as inputs:
            check_disk_space(plan, inputs.vocal)
            for number in range(order.takes):
                on_take(number)
                seed = order.seed + number
                own = replace(
                    plan,
                    request=replace(request, seed=seed),
                    settings=plan.settings.model_copy(update={"seed": seed}),
                )
                drawn = networks.draw(own, inputs.vocal, inputs.text, kept=inputs.kept, shown=False)
                yield session.keep(write_results(own, inputs, drawn, networks, name=session.next_take()))
    finally:
        shutil.rmtree(making, ignore_errors=True)
