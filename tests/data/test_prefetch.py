"""Work done ahead of its consumer."""

import threading
from collections.abc import Iterator

import pytest

from attnsearch.data.loader import prefetched


def n_threads() -> int:
    return sum(thread.name.startswith("attnsearch-prefetch") for thread in threading.enumerate())


def test_results_keep_their_order() -> None:
    assert list(prefetched(lambda x: x * x, range(7))) == [0, 1, 4, 9, 16, 25, 36]


def test_nothing_to_do_gives_nothing() -> None:
    assert list(prefetched(str, [])) == []


def test_work_runs_at_most_so_far_ahead() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            asked.append(item)
            yield item

    results = prefetched(lambda x: x, items(), depth=2)
    next(results)
    assert asked == [0, 1, 2]  # one handed out, two ahead


def test_an_error_comes_where_its_result_would_have() -> None:
    def work(x: int) -> int:
        return 1 // (x - 2)

    results = prefetched(work, range(5))
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert n_threads() == 0


def test_the_thread_ends_when_the_consumer_stops_early() -> None:
    for _ in prefetched(lambda x: x, range(100)):
        break
    assert n_threads() == 0
