"""A clock that can run fast, and jump: a batch's 24 hours, its results' 29 days."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime

_LONGEST_NAP = 0.5


class Clock:
    """Unix seconds; goes back only when it is reset."""

    def __init__(self, speed: float = 1.0) -> None:
        self._real = self._shown = time.time()
        self._speed = speed
        self._changed = asyncio.Event()

    def now(self) -> float:
        """What it shows."""
        return self._shown + (time.time() - self._real) * self._speed

    def set_speed(self, speed: float) -> None:
        """Run so many times as fast as real time from here on."""
        self._shown, self._real = self.now(), time.time()
        self._speed = speed
        self.wake()

    def reset(self) -> None:
        """Show the real time again."""
        self._real = self._shown = time.time()
        self.wake()

    def advance(self, seconds: float) -> None:
        """Jump ahead."""
        if seconds < 0:
            raise ValueError("the clock does not go back")
        self._shown += seconds
        self.wake()

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def nap(self, until: float) -> None:
        """Wait until then, or until something has changed."""
        seconds = (until - self.now()) / self._speed
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(seconds, _LONGEST_NAP))


def timestamp(seconds: float | None) -> str | None:
    """RFC 3339, as the API writes times."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
