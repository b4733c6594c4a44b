"""A session: infer's networks, each opened once for as many requests as come, and what watches and stops them."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from common.canonical import sha256_of_file
from common.progress import progress
from infer.band.networks import AccompanimentSampler
from infer.request.plan import GenerationPlan
from infer.request.request import Runtime
from infer.request.text_inputs import TextInputs
from infer.request.vocal import VocalInput
from models.adapters.style import Style
from models.flow.kept import KeptLatents
from models.loading.checkpoint import (
    open_codec,
    open_decoder,
    open_lyric_reader,
    open_text_encoder,
    open_transformer,
    part_files,
)
from models.protocols import FlowNetwork, LatentCodec, LatentDecoder, LyricReader, PromptEncoder

WORK_BYTES = 4 * 2**30
"""Of a GPU, beside the networks: what a window of 240 s takes on its way through the transformer."""

Network = TypeVar("Network")
AnyStep = TypeVar("AnyStep")
CountStep = Callable[[int, str], None]
"""Counts so many units as done, with a note of the newest."""


class SessionCancelledError(Exception):
    """A session was asked to stop. Results that were finished stay."""


@dataclass(frozen=True)
class StepProgress:
    """How far a task of a session is."""

    task: str
    done: int
    total: int
    note: str


class Session:
    """Networks for many requests; results are, bit for bit, those of a session for each.

    All of them stay open where `keep` is true; where it is false, one is closed before the next is opened. By default
    they stay on whatever is no GPU, and on a GPU whose free memory, when the session first uses it, holds the weights
    of the base and WORK_BYTES. A network whose files changed is opened anew. Adapters change in the open transformer.

    `on_progress` is called after each step; `is_cancelled` is asked there, and before a network is opened. Where it is
    true, SessionCancelledError is raised: what the request had written so far is taken away.
    """

    def __init__(
        self,
        *,
        keep: bool | None = None,
        on_progress: Callable[[StepProgress], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self._keep, self._on_progress, self._is_cancelled = keep, on_progress, is_cancelled
        self._open: dict[str, tuple[Any, Any]] = {}  # by kind: what it was opened from, the network
        self._hashes: dict[tuple[Path, int, int], str] = {}

    def codec_encoder(self, runtime: Runtime) -> LatentCodec:
        return self._network(
            "codec_encoder",
            (runtime.device, _part_stamps(runtime, runtime.spec.parts.codec)),
            runtime,
            lambda: open_codec(runtime.base, encoder=True, decoder=False).to(runtime.device),
        )

    def text_encoder(self, runtime: Runtime) -> PromptEncoder:
        return self._network(
            "text_encoder",
            (runtime.device, _part_stamps(runtime, runtime.spec.parts.text_encoder)),
            runtime,
            lambda: open_text_encoder(runtime.base).to(runtime.device),
        )

    def lyric_reader(self, runtime: Runtime) -> LyricReader:
        """The text encoder is opened where the base model's lyrics are rows of it."""
        encoder = self.text_encoder(runtime) if runtime.spec.has_lyric_rows else None
        return open_lyric_reader(runtime.base, encoder)

    def decoder(self, runtime: Runtime) -> LatentDecoder:
        parts = tuple(_part_stamps(runtime, part) for part in runtime.spec.parts.decoders)
        opened = partial(open_decoder, runtime.base, runtime.device)
        return self._network("decoder", (runtime.device, parts), runtime, opened)

    def sampler(
        self, runtime: Runtime, adapters: Sequence[Path], weights: Sequence[float], *, style: Style | None = None
    ) -> AccompanimentSampler:
        """Raises UserError where an adapter does not belong to this base, or a style does not fit it."""
        transformer = self._transformer(runtime)
        used = (tuple(map(_stamps, adapters)), tuple(weights), style and (_stamps(style.path), style.weight))
        known = self._open.get("adapters")
        if known is not None and known[0] == used and known[1].transformer is transformer:
            return known[1]
        self._open.pop("adapters", None)
        made = AccompanimentSampler.load(transformer, runtime, adapters, weights, style=style)
        self._open["adapters"] = (used, made)
        return made

    def _transformer(self, runtime: Runtime) -> FlowNetwork:
        return self._network(
            "transformer",
            (runtime.device, runtime.dtype, _part_stamps(runtime, runtime.spec.parts.transformer)),
            runtime,
            lambda: open_transformer(runtime.base, dtype=runtime.dtype).to(runtime.device),
        )

    def draw(
        self,
        plan: GenerationPlan,
        vocal: VocalInput,
        text: TextInputs,
        *,
        kept: KeptLatents | None = None,
        shown: bool = True,
    ) -> list[Tensor]:
        """Latents [C, H, T] for each seed of a plan, whose `kept` frames are those that are given.

        Where they are `shown`, steps are counted on stderr too. Raises UserError as `sampler` does.
        """
        used, settings = plan.selection, plan.settings
        sampler = self.sampler(plan.runtime, used.folders, used.weights, style=used.style)
        with self.counting(len(plan.seeds) * settings.sampler.steps, "sampling", "steps", shown=shown) as step:
            return sampler.draw(vocal, text, settings, plan.seeds, step, kept=kept)

    def sha256(self, path: Path) -> str:
        """Hash of a file, read once while its size and time of change stay."""
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = sha256_of_file(path)
        return self._hashes[key]

    def check(self) -> None:
        """Raise SessionCancelledError where the session was asked to stop."""
        if self._is_cancelled is not None and self._is_cancelled():
            raise SessionCancelledError

    def checked(self, steps: Iterable[AnyStep]) -> Iterator[AnyStep]:
        """`steps`, each behind a `check`."""
        for step in steps:
            self.check()
            yield step

    @contextmanager
    def counting(self, total: int, task: str, unit: str, *, shown: bool = True) -> Generator[CountStep]:
        """Give a function of units done and a note, to be called after each step of a task.

        It checks for cancellation, and counts for on_progress and, where it is `shown`, on stderr.
        """
        done = 0

        def step(units: int, note: str) -> None:
            nonlocal done
            done += units
            if bar is not None:
                bar.update(units, note)
            if self._on_progress is not None:
                self._on_progress(StepProgress(task, done, total, note))
            self.check()

        if not shown:
            bar = None
            yield step
            return
        with progress(total, task, unit) as bar:
            yield step

    def _network(self, kind: str, source: Any, runtime: Runtime, open_it: Callable[[], Network]) -> Network:
        known = self._open.get(kind)
        if known is not None and known[0] == source:
            return known[1]
        self.check()
        if self._keep is None:
            self._keep = _has_room(runtime)
        if not self._keep:
            self._open.clear()
        self._open.pop(kind, None)
        if kind == "transformer":
            self._open.pop("adapters", None)
        del known
        network = open_it()
        self._open[kind] = (source, network)
        return network


def _stamps(path: Path) -> tuple[tuple[Path, int, int], ...]:
    """Size and time of change of a file, or of each in a folder: they tell whether it is as it was."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files]
    return tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats)


def _part_stamps(runtime: Runtime, part: str) -> tuple[tuple[Path, int, int], ...]:
    """Those of a part's files."""
    files = [path for path in part_files(runtime.base, part) if path.is_file()]
    return tuple(stamp for path in files for stamp in _stamps(path))


def _has_room(runtime: Runtime) -> bool:
    if runtime.device.type != "cuda":
        return True
    files = [path for part in runtime.spec.files for path in part_files(runtime.base, part)]
    free, _ = torch.cuda.mem_get_info(runtime.device)
    return free >= WORK_BYTES + sum(file.stat().st_size for file in files if file.is_file())
