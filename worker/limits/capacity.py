"""How many requests a class has room for, so that no more are brought to the workers."""

from __future__ import annotations

import math

from worker.limits.types import FLOOR, Buckets, ClassState
from worker.limits.window import SLOW_START

#: What an average request costs, before one has ended.
_TYPICAL = Buckets(1.0, 1000.0, 400.0)


def room(state: ClassState, horizon: float, processes: int) -> int | None:
    """How many more average requests can be sent within `horizon` seconds; None: any number."""
    if state.closed_for > horizon:
        return 0
    if not state.known:
        return SLOW_START * processes
    seconds = horizon - state.closed_for
    most = math.inf
    for limit, level, average, typical in zip(
        state.limits, state.levels, state.averages, _TYPICAL, strict=True
    ):
        if limit and level is not None and typical:
            there = level + limit * state.ramp * (seconds / 60 - FLOOR)
            most = min(most, there / max(average or typical, 1.0))
    return None if most == math.inf else max(0, int(most))
