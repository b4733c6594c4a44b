"""How the processes of a run on one machine are started, and how each ends when another fails."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import torch.distributed
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from train.devices.watch import Watch, kill_all, lost_leader, lost_rank

LEADER = "BACKLINE_LEADER"
"""Names, to a process that was started here, the one that started it."""
GRACE_SECONDS = 60.0
"""How long a broken connection waits for the watch to say which rank was lost; its process may take a while to end."""


class RankLauncher(_SubprocessScriptLauncher):
    """Starts this command again for every further device; all of them watch over each other until the run is over."""

    _watch: Watch | None = None

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Call `function` as one rank. Where it fails, no other that was started here is left behind."""
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        rank = environment.node_rank() * self.num_processes + environment.local_rank()
        if not environment.creates_processes_externally:
            self._start_others(rank + 1)
        elif LEADER in os.environ:
            leader = psutil.Process(int(os.environ[LEADER]))
            self._begin_watch(Watch(partial(lost_leader, leader, rank)))
        _set_num_threads_if_needed(num_processes=self.num_processes)
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if self._watch is not None and _is_broken_connection(error):
                time.sleep(GRACE_SECONDS)
            self.end_watch()
            kill_all(self.procs)
            raise

    def end_watch(self) -> None:
        """All ranks are done: each may end, with whatever code."""
        if self._watch is not None:
            self._watch.end()

    def _start_others(self, first: int) -> None:
        os.environ[LEADER] = str(os.getpid())
        try:
            self._call_children_scripts()
        finally:
            del os.environ[LEADER]
        self._begin_watch(Watch(partial(lost_rank, self.procs, first), self.procs))

    def _begin_watch(self, watch: Watch) -> None:
        self._watch = watch
        watch.start()


class WatchedDDP(DDPStrategy):
    """DDP whose ranks do not wait for one that is gone."""

    def _configure_launcher(self) -> None:
        self._launcher = _launcher_of(self)


class WatchedModelParallel(ModelParallelStrategy):
    """The same for weights that are divided."""

    def _configure_launcher(self) -> None:
        self._launcher = _launcher_of(self)


def _launcher_of(strategy: DDPStrategy | ModelParallelStrategy) -> RankLauncher:
    assert strategy.cluster_environment is not None
    return RankLauncher(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)


def _is_broken_connection(error: BaseException) -> bool:
    """Whether a collective failed, as it does where another rank has gone."""
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
