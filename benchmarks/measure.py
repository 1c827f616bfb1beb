"""What is read from the operating system, and a little arithmetic."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil


class BenchmarkError(Exception):
    """A measurement could not be made; nothing of it is reported."""


def process_tree(pid: int) -> Iterator[psutil.Process]:
    """The process and all that descend from it."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        yield from (root, *root.children(recursive=True))


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree so far, of children that ended too."""
    total = 0.0
    for process in process_tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass(frozen=True)
class Memory:
    """Bytes of a process tree; pages shared inside the tree count once in `pss`."""

    rss: int
    pss: int


def memory(pid: int) -> Memory:
    """The tree's memory now."""
    infos = [process.memory_full_info() for process in process_tree(pid)]
    return Memory(sum(info.rss for info in infos), sum(info.pss for info in infos))


def wait_for(condition: Callable[[], bool], *, seconds: float, what: str, every: float) -> None:
    """Look every `every` seconds until `condition()`.

    Raises:
        BenchmarkError: it was not met in `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not in {seconds:g} s")
        time.sleep(every)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 10_000) * len(ordered) // 10_000) - 1)]


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Round by round, so that what disturbed a round disturbs both of its sides."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)
