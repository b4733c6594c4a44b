"""What one search is: how many trials, how long, what ends them early, and which settings they may vary."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.config import Config

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


class FloatRange(Config):
    """A real number, drawn evenly or evenly by its logarithm."""

    type: Literal["float", "loguniform"]
    low: float
    high: float

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_order(self.low, self.high)
        if self.type == "loguniform" and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm; give one above 0, or type float")
        return self


class IntRange(Config):
    """A whole number: low, low + step, ... up to high."""

    type: Literal["int"]
    low: int
    high: int
    step: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_order(self.low, self.high)
        over = (self.high - self.low) % self.step
        if over:
            raise ValueError(
                f"high {self.high} is not reached from low {self.low} in steps of {self.step}; "
                f"write {self.high - over} or {self.high - over + self.step}"
            )
        return self


class Choices(Config):
    """One of a few values; lists are allowed where the setting is one."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Any, ...], Field(min_length=1)]


def _check_order(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low {low:g} is above high {high:g}; exchange them")


Dimension = Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]


def _default_space() -> dict[str, Dimension]:
    return {
        "reference_strength": FloatRange(type="float", low=0.1, high=0.9),
        "lora_rank": IntRange(type="int", low=64, high=512, step=64),
        "learning_rate": FloatRange(type="loguniform", low=1e-5, high=1e-3),
    }


class OptunaConfig(Config):
    """One study of `train search`."""

    n_trials: Positive = 50
    """Trials of the whole study, over all processes and reruns. May be raised later."""
    timeout: Positive | None = None
    """Seconds after which a process starts no further trial; null has no limit."""
    search_space: Annotated[dict[str, Dimension], Field(min_length=1)] = Field(default_factory=_default_space)
    """Settings of the training config to vary, by short name (lora_rank, learning_rate) or path (lora.r)."""

    metric: Literal["val/x0_gain", "val/loss"] = "val/x0_gain"
    """What trials are compared by, after their last step: the first is maximised, the second minimised."""
    trial_steps: Positive = 1000
    """Optimiser steps of a trial; its learning rate falls to 0 by then, and at most a tenth of them are warm-up."""
    report_every_n_steps: Positive | None = None
    """Optimiser steps between two validations of a trial, after each of which it may be ended; null is a tenth."""

    pruner_type: Literal["median", "successive_halving", "hyperband"] = "median"
    """What ends trials that promise little."""
    pruner_n_startup_trials: NotNegative = 5
    """median: trials that must be complete before any is ended."""
    pruner_n_warmup_steps: NotNegative = 100
    """median: optimiser steps before a trial may be ended."""
    pruner_min_resource: Positive | None = None
    """successive_halving, hyperband: optimiser steps before the first cut; null is report_every_n_steps."""
    pruner_max_resource: Positive | None = None
    """hyperband: optimiser steps of a trial that is never ended; null is trial_steps."""
    pruner_reduction_factor: Annotated[int, Field(ge=2)] = 3
    """successive_halving, hyperband: one in so many survives a cut; the next cut comes at so many times the steps."""

    heartbeat_seconds: Positive = 30
    """A process whose trial shows no sign of life for four times as long is taken for dead; the trial starts anew."""

    @property
    def report_steps(self) -> int:
        """Optimiser steps between two validations of a trial."""
        return self.report_every_n_steps or max(1, self.trial_steps // 10)

    @property
    def min_resource(self) -> int:
        """Optimiser steps before the first cut of successive halving."""
        return self.pruner_min_resource or self.report_steps

    @property
    def max_resource(self) -> int:
        """Optimiser steps of a trial that hyperband never ends."""
        return self.pruner_max_resource or self.trial_steps

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.report_steps > self.trial_steps:
            raise ValueError(
                f"report_every_n_steps {self.report_steps} is past the end of a trial, trial_steps {self.trial_steps}; "
                "lower it"
            )
        if self.min_resource > self.max_resource:
            raise ValueError(
                f"pruner_min_resource {self.min_resource} is above pruner_max_resource {self.max_resource}; lower the "
                "first or raise the second"
            )
        return self
