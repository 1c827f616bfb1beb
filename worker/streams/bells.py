"""Waking whoever waits – a thread or an asyncio task – from a thread that serves all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary


class _Rounds:
    """The bells of one event loop, rung in one round: to wake a loop costs a system call."""

    def __init__(self) -> None:
        self._due: deque[asyncio.Event] = deque()
        self._scheduled = False

    def ring(self, loop: asyncio.AbstractEventLoop, bell: asyncio.Event) -> None:
        """From any thread; a loop that is closed has nobody left who waits."""
        self._due.append(bell)
        if not self._scheduled:
            self._scheduled = True
            try:
                loop.call_soon_threadsafe(self._round)
            except RuntimeError:
                self._due.clear()

    def _round(self) -> None:
        # Before the bells are looked for: one that comes meanwhile schedules another round.
        self._scheduled = False
        while self._due:
            self._due.popleft().set()


_rounds: WeakKeyDictionary[asyncio.AbstractEventLoop, _Rounds] = WeakKeyDictionary()


def ringer(bell: asyncio.Event) -> Callable[[], None]:
    """A function that sets `bell` from any thread; to be called in the loop of who waits for it."""
    loop = asyncio.get_running_loop()
    rounds = _rounds.setdefault(loop, _Rounds())
    return lambda: rounds.ring(loop, bell)
