"""A study: trials one after the other, each kept in tuning.json when it ends, so that a stopped study goes on.

Optuna draws and gives up; its study is made anew from the file at every start, with the same draws to come.
"""

import math
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import WilcoxonPruner
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial
from pydantic import JsonValue

from common.config import Config, check_config, read_json
from common.errors import UserError
from common.files import whole_file
from infer.tune.songs import MadeBand, SongScore
from infer.tune.space import Recommended, TuningSpace

TUNING_FILE = "tuning.json"
LEAK_LIMIT = 0.03
"""How much more of the vocal than in true bands may stand in half of the bands."""
NEARNESS = 0.02
"""What half the distance from true bands is worth, in fit."""
TINY_DISTANCE = 1e-9
OUTSIDE = -1.0
"""What is added to the value of a trial that leaks, or whose bands are further from true ones than before."""


class TunedTrial(Config):
    """Settings that were tried, and what came of them."""

    settings: Recommended
    drawn: dict[str, JsonValue]
    """What Optuna drew; near the settings, for those that the adapter had."""
    songs: tuple[SongScore, ...]
    """As far as it came."""
    distance: float | None
    """Of its bands from the true ones; null where it was given up before the last song."""

    @property
    def fit(self) -> float:
        """Mean over its songs."""
        return fmean(song.fit for song in self.songs)

    @property
    def leak(self) -> float:
        return median(song.leak for song in self.songs)


class TuningSetup(Config):
    """What trials have in common."""

    adapter: str
    """Hash of all of it but the settings that are tuned."""
    shards: str
    """Fingerprint of the shards."""
    songs: tuple[str, ...]
    seed: int


class Tuning(Config):
    """tuning.json: all trials of a study; the first has the settings that the adapter had."""

    setup: TuningSetup
    trials: tuple[TunedTrial, ...] = ()

    @property
    def before(self) -> TunedTrial:
        return self.trials[0]

    def value_of(self, trial: TunedTrial) -> float:
        """What whole trials are compared by: fit, and nearness to true bands."""
        was, now = self._distances(trial)
        return trial.fit + NEARNESS * math.log2(max(was, TINY_DISTANCE) / max(now, TINY_DISTANCE))

    def is_within(self, trial: TunedTrial) -> bool:
        """Whether a whole trial leaks no more than LEAK_LIMIT and is no further from true bands than the first."""
        was, now = self._distances(trial)
        return trial.leak <= max(LEAK_LIMIT, self.before.leak) and now <= was

    def _distances(self, trial: TunedTrial) -> tuple[float, float]:
        """That of the first trial, and that of a whole one."""
        assert self.before.distance is not None
        assert trial.distance is not None
        return self.before.distance, trial.distance

    @property
    def best(self) -> TunedTrial:
        """Of those within the limits that of the highest value; of equals that of fewer steps, then the earlier."""
        within = [trial for trial in self.trials if trial.distance is not None and self.is_within(trial)]
        return max(within, key=lambda trial: (self.value_of(trial), -trial.settings.sampler.steps))


def read_tuning(path: Path, setup: TuningSetup) -> Tuning:
    """What the file holds, or a fresh study. Raises UserError for a study of something else."""
    if not path.is_file():
        return Tuning(setup=setup)
    found = check_config(Tuning, read_json(path), str(path))
    for name, was in found.setup:
        if (now := getattr(setup, name)) != was:
            shown = "others" if name == "songs" else now
            raise UserError(f"{path}: begun with {name} {was}, now {shown}. Delete this file to begin anew.")
    return found


class TuningStudy:
    """The trials of one file, with those to come."""

    def __init__(self, path: Path, tuning: Tuning, space: TuningSpace) -> None:
        self.tuning = tuning
        self._path, self._space = path, space
        with _quiet():
            self._study = optuna.create_study(direction="maximize", pruner=WilcoxonPruner())
        for trial in tuning.trials:
            self._add(trial)

    def run_next(
        self, bands: Callable[[Recommended], Iterator[MadeBand]], distance: Callable[[Sequence[MadeBand]], float]
    ) -> TunedTrial:
        """Try the next settings, on as many songs as it takes to know that they are worse, and keep what came of it.

        Raises UserError where the disk refuses.
        """
        number, starts = len(self.tuning.trials), self._space.starts()
        if number < len(starts):
            self._study.enqueue_trial(starts[number])
        self._study.sampler = TPESampler(seed=_seed(self.tuning.setup.seed, number))
        trial = self._study.ask(self._space.distributions)
        settings = self._space.settings(trial.params) if number else self._space.before
        made: list[MadeBand] = []
        given_up = False
        for band in bands(settings):
            made.append(band)
            trial.report(band.score.fit, len(made))
            given_up = len(made) < len(self.tuning.setup.songs) and trial.should_prune()
            if given_up:
                break
        done = TunedTrial(
            settings=settings,
            drawn=trial.params,
            songs=tuple(band.score for band in made),
            distance=None if given_up else distance(made),
        )
        self._keep(done)
        self._study.tell(trial, *self._told(done))
        return done

    def _keep(self, trial: TunedTrial) -> None:
        self.tuning = self.tuning.model_copy(update={"trials": (*self.tuning.trials, trial)})
        with whole_file(self._path) as partial:
            partial.write_text(self.tuning.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")

    def _told(self, trial: TunedTrial) -> tuple[float | None, TrialState]:
        """What Optuna learns of a trial."""
        if trial.distance is None:
            return None, TrialState.PRUNED
        return self.tuning.value_of(trial) + (0.0 if self.tuning.is_within(trial) else OUTSIDE), TrialState.COMPLETE

    def _add(self, trial: TunedTrial) -> None:
        """Tell a study that begins anew of a trial that the file holds."""
        value, state = self._told(trial)
        self._study.add_trial(
            create_trial(
                state=state,
                value=value,
                params=dict(trial.drawn),
                distributions=self._space.distributions,
                intermediate_values={number: song.fit for number, song in enumerate(trial.songs, start=1)},
            )
        )


def _seed(seed: int, number: int) -> int:
    """Of the sampler that draws a trial: the same however often the study was stopped before."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


@contextmanager
def _quiet() -> Generator[None]:
    """Keep Optuna's own words off stderr: of its new study, and that its pruner is an experiment."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
