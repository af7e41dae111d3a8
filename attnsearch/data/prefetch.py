"""Work done one step ahead, on a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")


def prefetched(work: Callable[[A], R], items: Iterable[A], *, depth: int = 2) -> Iterator[R]:
    """`work(item)` of each item in order, up to `depth` items ahead of the consumer.

    The thread ends with the iterator, also when the consumer stops early; an error of `work` is raised where its
    result would have come.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="attnsearch-prefetch") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
