"""Starting the programs that are measured, and ending all of their processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from benchmarks.measure import process_tree
from sandbox.service import Service


class Fleet(Service):
    """A program of several processes: what its own shutdown leaves behind is killed."""

    def stop(self, *, seconds: float = 10) -> int | None:
        family = list(process_tree(self.pid))
        code = super().stop(seconds=seconds)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return code


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started inside runs on that core; where there are no such bounds, on any."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[core % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
