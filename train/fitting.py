"""The training loop of small networks, the harmoniser's and those of the bundle: seeded step by step, and resumed
where it was.

What a step draws depends on the seed and its number alone, so that a run that was killed and started again goes
through the same steps as one that was not.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.config import Config, parse_json
from common.errors import UserError
from common.files import whole_file
from common.progress import progress

SETTINGS_FILE, STATE_FILE, LOSSES_FILE, BEST_FILE, RESULT_FILE = (
    "settings.json",
    "state.safetensors",
    "losses.jsonl",
    "best.safetensors",
    "weights.safetensors",
)
LOG_STEPS = 25
"""Steps whose losses are averaged into one line of losses.jsonl."""
SAVE_SECONDS = 90.0
"""Least time between two saved states, so that a kill costs little more than this."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingSettings(Config):
    """How long and how fast a network learns, with AdamW; the learning rate rises over warmup_steps, then falls as a
    cosine to 0."""

    steps: Annotated[int, Field(ge=1)]
    """Optimiser steps."""
    batch: Annotated[int, Field(ge=1)]
    """Items of a step."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Highest learning rate."""
    warmup_steps: Annotated[int, Field(ge=1)] = 100
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Longest gradient."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the weights, which is what the bundle gets."""

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        rise = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * rise * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class Draws:
    """The randomness of one step."""

    numpy: np.random.Generator
    torch: torch.Generator


Losses = Callable[[Draws], Mapping[str, Tensor]]
"""Draws a batch and gives named losses; their sum is what is made small."""
Judge = Callable[[Mapping[str, Tensor]], float]
"""What averaged weights are worth; more is better."""
JUDGED = "judged"
"""Beside the losses in a line of losses.jsonl."""


@dataclass(frozen=True)
class Trained:
    """What a stage leaves in its folder."""

    weights: Path
    """Averaged weights, float32."""
    steps: int
    """Of the training."""
    chosen_step: int
    """Of the weights: the best one, where they were judged, else the last."""
    seconds: float
    losses: Mapping[str, float]
    """Mean over the last LOG_STEPS steps."""


def finished(folder: Path) -> bool:
    return (folder / RESULT_FILE).is_file()


def fit(
    folder: Path,
    network: nn.Module,
    losses: Losses,
    settings: TrainingSettings,
    *,
    about: Config,
    seed: int,
    judge: Judge | None = None,
) -> Trained:
    """Train `network` in place and load the average of its weights, or load those of a finished run in `folder`.

    With `judge` it is the best average of those before the first step and after every LOG_STEPS.
    `about` are the settings of the stage; UserError where the folder was begun with others.
    """
    claim(folder, about)
    if not finished(folder):
        _Run(folder, network, losses, settings, seed, judge).to_the_end()
    network.load_state_dict(load_file(folder / RESULT_FILE))
    network.requires_grad_(False).eval()
    return _report(folder)


def claim(folder: Path, about: Config) -> None:
    """Write what a folder's results depend on, or compare it with what is there. Raises UserError where it differs."""
    path, text = folder / SETTINGS_FILE, about.model_dump_json(indent=1) + "\n"
    if not path.is_file():
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    elif path.read_text(encoding="utf-8") != text:
        raise UserError(f"{folder}: was begun with other settings ({path.name}). Remove the folder, or restore them.")


def _report(folder: Path) -> Trained:
    rows = [_row(line) for line in (folder / LOSSES_FILE).read_text(encoding="utf-8").splitlines()]
    last = rows[-1]
    chosen = max(rows, key=lambda row: row[JUDGED]) if JUDGED in last else last
    losses = {name: value for name, value in last.items() if name not in {"step", "seconds", JUDGED}}
    return Trained(folder / RESULT_FILE, last["step"], chosen["step"], last["seconds"], losses)


class _Run:
    """One network on its way through the steps."""

    def __init__(
        self,
        folder: Path,
        network: nn.Module,
        losses: Losses,
        settings: TrainingSettings,
        seed: int,
        judge: Judge | None,
    ) -> None:
        self.folder, self.network, self.losses, self.settings, self.seed = folder, network, losses, settings, seed
        self.judge, self.best = judge, -math.inf
        self.device = next(network.parameters()).device
        self.average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self.learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            list(self.learning.values()),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.step, self.seconds, self.saved_at = 0, 0.0, time.monotonic()

    def to_the_end(self) -> None:
        self._resume()
        if self.judge is not None and self.best == -math.inf:
            self._log({})
        self.network.train()
        with progress(self.settings.steps, self.folder.name, "steps", done=self.step) as done:
            while self.step < self.settings.steps:
                until = min(self.step + LOG_STEPS, self.settings.steps)
                begun = time.monotonic()
                rows = [self._advance() for _ in range(self.step, until)]
                means = _means(rows)
                self.seconds += time.monotonic() - begun
                done.update(len(rows), note=", ".join(f"{name} {value:.4f}" for name, value in means.items()))
                self._log(means)
                if time.monotonic() - self.saved_at >= SAVE_SECONDS:
                    self._save()
        if self.judge is None:
            save_whole(self.average, self.folder / RESULT_FILE)
        else:
            (self.folder / BEST_FILE).replace(self.folder / RESULT_FILE)
        (self.folder / STATE_FILE).unlink(missing_ok=True)

    def _advance(self) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step)
        losses = self.losses(self._draws())
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.learning.values(), self.settings.clip_norm, error_if_nonfinite=True)
        self.optimizer.step()
        self.step += 1
        self._average()
        return {name: loss.detach() for name, loss in losses.items()}

    def _draws(self) -> Draws:
        rng = np.random.default_rng([self.seed, self.step])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout draws from the global generator
        return Draws(rng, torch.Generator(self.device).manual_seed(int(rng.integers(2**62))))

    @torch.no_grad()
    def _average(self) -> None:
        """Early on the average is that of few steps."""
        share = max(1 - self.settings.average_decay, 1 / (1 + self.step / 10))
        for name, tensor in self.network.state_dict().items():
            self.average[name].lerp_(tensor, share)

    def _log(self, means: Mapping[str, float]) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 1), **means, **self._judged()}
        with (self.folder / LOSSES_FILE).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")

    def _judged(self) -> dict[str, float]:
        """What the average is worth; the best so far is kept."""
        if self.judge is None:
            return {}
        value = round(self.judge(self.average), 6)
        if value > self.best:
            self.best = value
            save_whole(self.average, self.folder / BEST_FILE)
        return {JUDGED: value}

    def _save(self) -> None:
        tensors = {f"average.{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.learning.items():
            tensors[f"network.{name}"] = parameter.detach()
            tensors |= {f"{moment}.{name}": self.optimizer.state[parameter][moment] for moment in MOMENTS}
        note = {"step": str(self.step), "seconds": str(self.seconds)}
        save_whole(tensors, self.folder / STATE_FILE, note)
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        """Take up the state that is there, and forget losses logged after it."""
        path = self.folder / STATE_FILE
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                note = file.metadata()
            self.step, self.seconds = int(note["step"]), float(note["seconds"])
            self._take(load_file(path))
        log = self.folder / LOSSES_FILE
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
        kept = _before(lines, self.step)
        log.write_text("".join(kept), encoding="utf-8", newline="\n")
        self.best = max((_row(line).get(JUDGED, -math.inf) for line in kept), default=-math.inf)

    @torch.no_grad()
    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self.average.items():
            tensor.copy_(tensors[f"average.{name}"])
        for name, parameter in self.learning.items():
            parameter.copy_(tensors[f"network.{name}"])
            moments = {moment: tensors[f"{moment}.{name}"].to(self.device) for moment in MOMENTS}
            self.optimizer.state[parameter] = {"step": torch.tensor(float(self.step), device=self.device), **moments}


def _before(lines: Iterable[str], step: int) -> list[str]:
    """The whole lines of a log up to `step`; a line that a kill cut short is left out."""
    return [line for line in lines if line.endswith("\n") and _row(line)["step"] <= step]


def _row(line: str) -> dict[str, Any]:
    """A line of losses.jsonl."""
    return parse_json(line.encode(), LOSSES_FILE)


def _means(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    return {name: round(torch.stack([row[name] for row in rows]).mean().item(), 5) for name in rows[0]}


def save_whole(tensors: Mapping[str, Tensor], path: Path, note: dict[str, str] | None = None) -> None:
    """A safetensors file that appears whole or not at all."""
    with whole_file(path) as partial:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial, note)
