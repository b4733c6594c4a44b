"""From a search space to the configs of trials: what its names mean, whether its ranges are allowed, what is drawn."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from common.config import Config, check_config
from common.errors import UserError
from train.config import TrainingConfig
from train.search.config import Choices, Dimension, FloatRange, IntRange, OptunaConfig

if TYPE_CHECKING:
    from optuna import Trial

ALIASES = {"lora_rank": "lora.r"}
"""Short names that are not the last part of their path."""
ONLY_IN_MODE = {
    "image2image": {
        "accompaniment.objective",
        "accompaniment.source_projection",
        "accompaniment.a_max",
        "accompaniment.offset_weight",
        "accompaniment.strength_dropout",
        "accompaniment.activity_gate",
    },
    "controlnet": {
        "accompaniment.control_encoder_depth",
        "accompaniment.control_encoder_dim",
        "accompaniment.controlnet_scale",
        "accompaniment.injection_layers",
        "accompaniment.control_injection",
        "accompaniment.control_dropout",
    },
    "context": {"accompaniment.strength_dropout"},
}
"""Settings that mean nothing in a mode that does not list them."""
FIXED_SETTINGS = {
    "accompaniment.mode",
    "accompaniment.output_type",
    "dataset_path",
    "max_duration",
    "crop_seconds",
    "max_steps",
    "num_workers",
    "base_dtype",
    "gradient_checkpointing",
    "compile",
    "seed",
    "val_fraction",
    "val_every_n_steps",
    "early_stop_patience",
    "render_every_n_steps",
    "checkpoint_every_n_steps",
    "exp_name",
    "logger_dir",
}
"""Settings that decide what trials share or are compared by, or change no result."""
MOST_WARM_UP = 10
"""A trial warms up for at most one step in so many."""


@dataclass(frozen=True)
class SearchParameter:
    """One setting that trials vary."""

    name: str  # as the search space calls it
    path: str  # in TrainingConfig
    dimension: Dimension

    def draw(self, trial: "Trial") -> Any:
        """The value that Optuna's sampler wants to see tried."""
        match self.dimension:
            case FloatRange(type=kind, low=low, high=high):
                return trial.suggest_float(self.name, low, high, log=kind == "loguniform")
            case IntRange(low=low, high=high, step=step):
                return trial.suggest_int(self.name, low, high, step=step)
            case Choices(choices=choices):
                values = {_label(choice): choice for choice in choices}
                return values[trial.suggest_categorical(self.name, list(values))]

    def extremes(self) -> tuple[Any, ...]:
        """Values that are all within a setting's bounds only if all that may be drawn is."""
        match self.dimension:
            case FloatRange(low=low, high=high):
                return low, high
            case IntRange(low=low, high=high, step=step):
                return low, min(low + step, high), high
            case Choices(choices=choices):
                return choices


@dataclass(frozen=True)
class SearchSpace:
    """What a search varies."""

    parameters: tuple[SearchParameter, ...]
    left_out: tuple[str, ...]  # names that mean nothing in the run's mode


def space_of(config: TrainingConfig, wanted: OptunaConfig) -> SearchSpace:
    """The search space of `wanted` for runs like `config`.

    Raises UserError for an unknown name, a name given twice, a setting that cannot vary, a range outside its bounds,
    and where nothing is left to vary.
    """
    mode = config.accompaniment.mode
    other = {path for paths in ONLY_IN_MODE.values() for path in paths} - ONLY_IN_MODE[mode]
    parameters = [SearchParameter(name, _path_of(name), dimension) for name, dimension in wanted.search_space.items()]
    _check_once(parameters)
    for parameter in parameters:
        _check(config, parameter)
    kept = tuple(parameter for parameter in parameters if parameter.path not in other)
    if not kept:
        raise UserError(f"search_space: nothing in it has a meaning in mode {mode}. Name a setting of that mode.")
    return SearchSpace(kept, tuple(parameter.name for parameter in parameters if parameter.path in other))


def config_with(config: TrainingConfig, space: SearchSpace, drawn: Mapping[str, Any]) -> TrainingConfig:
    """`config` with drawn values, by parameter name, in place. Raises UserError where they do not go together."""
    values = config.model_dump(mode="json")
    for parameter in space.parameters:
        _put(values, parameter.path, drawn[parameter.name])
    return check_config(TrainingConfig, values, ", ".join(f"{name} {value}" for name, value in drawn.items()))


def shortened(config: TrainingConfig, wanted: OptunaConfig) -> TrainingConfig:
    """The same run as a trial takes it: fewer steps and their learning rate, validated often, nothing kept."""
    changes = {
        "max_steps": wanted.trial_steps,
        "warmup_steps": min(config.warmup_steps, wanted.trial_steps // MOST_WARM_UP),
        "val_every_n_steps": wanted.report_steps,
        "early_stop_patience": 0,
        "render_every_n_steps": 0,
    }
    return config.model_copy(update=changes)


def check_length(config: TrainingConfig, wanted: OptunaConfig) -> None:
    """Raises UserError if trials would be longer than the run that they stand for."""
    if wanted.trial_steps > config.max_steps:
        raise UserError(
            f"trial_steps {wanted.trial_steps}: the run that trials shorten has max_steps {config.max_steps}. "
            f"Set trial_steps to {config.max_steps} or less."
        )


def short_names(kind: type[Config] = TrainingConfig, prefix: str = "") -> dict[str, str]:
    """Short name -> path of every setting."""
    found: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Config):
            found |= short_names(section, f"{name}.")
        else:
            found[name] = prefix + name
    return found if prefix else found | ALIASES


def _path_of(name: str) -> str:
    known = short_names()
    path = name if name in known.values() else known.get(name)
    if path is None:
        near = get_close_matches(name, [*known, *known.values()], n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}."
        raise UserError(f"search_space: there is no setting {name}; {hint}")
    return path


def _check_once(parameters: list[SearchParameter]) -> None:
    seen: dict[str, str] = {}
    for parameter in parameters:
        if parameter.path in seen:
            raise UserError(
                f"search_space: {seen[parameter.path]} and {parameter.name} are both {parameter.path}. Leave one out."
            )
        seen[parameter.path] = parameter.name


def _check(config: TrainingConfig, parameter: SearchParameter) -> None:
    if parameter.path in FIXED_SETTINGS:
        raise UserError(
            f"search_space.{parameter.name}: {parameter.path} is the same in all trials, which share it, are compared "
            "by it, or come out the same whatever it is. Set it in the config, or leave it."
        )
    if parameter.path == "accompaniment.objective" and "naive" in parameter.extremes():
        raise UserError(
            f"search_space.{parameter.name}: gains of objective naive are not comparable with the others'. Leave "
            "naive out."
        )
    for value in parameter.extremes():
        values = config.model_dump(mode="json")
        _put(values, parameter.path, value)
        check_config(TrainingConfig, values, f"search_space.{parameter.name}, at {json.dumps(value)}")


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, last = path.split(".")
    for section in sections:
        values = values[section]
    values[last] = value


def _label(choice: Any) -> Any:
    """A choice as Optuna stores it: lists as the text of their JSON."""
    return json.dumps(choice) if isinstance(choice, list) else choice
