import threading
import time

import pytest

from train.data.prefetch import in_order


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_keep_the_order_of_their_tasks(workers):
    def task(number):
        time.sleep(0.002 * (7 - number % 7))
        return number

    numbers = list(range(20))
    assert list(in_order([lambda n=n: task(n) for n in numbers], workers=workers, ahead=4)) == numbers


@pytest.mark.parametrize(("workers", "most"), [(0, 1), (2, 4)])
def test_no_more_is_begun_than_asked_for_and_ahead(workers, most):
    begun = []
    results = in_order((lambda n=n: begun.append(n) for n in range(100)), workers=workers, ahead=3)
    next(results)
    deadline = time.monotonic() + 10
    while len(begun) < most and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.02)
    assert len(begun) == most
    results.close()
    assert len(begun) == most


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_its_place(workers):
    def fail():
        raise ValueError("third")

    results = in_order([lambda: 1, lambda: 2, fail, lambda: 4], workers=workers, ahead=4)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(results)


def test_threads_end_with_the_work():
    assert len(list(in_order([lambda: 1] * 5, workers=3, ahead=2))) == 5
    deadline = time.monotonic() + 10
    while reading() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reading() == []


def reading():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shards")]
