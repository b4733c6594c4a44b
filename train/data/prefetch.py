"""Work done ahead of time by threads, without any say in the order of results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def in_order(tasks: Iterable[Callable[[], Result]], *, workers: int, ahead: int) -> Generator[Result]:
    """What `tasks` return, in their order. `workers` threads work on up to `ahead` tasks that are not asked for yet.

    With 0 workers a task runs when it is asked for. A task's error is raised where its result would have come.
    """
    if workers == 0:
        yield from (task() for task in tasks)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="shards")
    started: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            started.append(pool.submit(task))
            if len(started) > ahead:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
