"""The acceleration limit: how much more of a class may be used than a moment before."""

from __future__ import annotations

import math
from bisect import bisect_right

from sandbox.claude.config import Ramp

_STALE = 4096
"""Times that are forgotten together: one by one would move the list each time."""


class RampGuard:
    """Compares the admitted requests of the last seconds with those of as many seconds before."""

    def __init__(self, ramp: Ramp) -> None:
        self._ramp = ramp
        self._times: list[float] = []

    def wait(self, now: float) -> int | None:
        """Whole seconds until one more request fits; None if it fits now."""
        if self._fits(now):
            return None
        # After two windows nothing is left to count, so this ends.
        seconds = 1
        while not self._fits(now + seconds) and seconds < math.ceil(2 * self._ramp.seconds):
            seconds += 1
        return seconds

    def note(self, now: float) -> None:
        """A request was admitted."""
        self._times.append(now)
        if len(self._times) > _STALE:
            stale = bisect_right(self._times, now - 2 * self._ramp.seconds)
            if stale > _STALE // 2:
                del self._times[:stale]

    def _fits(self, now: float) -> bool:
        window = self._ramp.seconds
        oldest = bisect_right(self._times, now - 2 * window)
        middle = bisect_right(self._times, now - window)
        last, before = len(self._times) - middle, middle - oldest
        return last + 1 <= max(self._ramp.free_requests, self._ramp.factor * before)
