"""What this process knows by itself – and goes by while Redis is away.

The same buckets as in `buckets.lua`, each a fair part of the limit: one of N processes uses a
Nth. They start low, as the fleet may just have used up what there was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.limits.headers import Reading
from worker.limits.types import FLOOR, Buckets, ClassState, Cost, LocalTicket, Verdict

#: As in buckets.lua.
_GROWTH = 1 / 300
_LEAST_RAMP = 1 / 64
_NO_TIME = 0.001

#: A level that was heard of longer ago says nothing (seconds).
_FRESH = 5.0

_BUCKETS = range(3)
_NOTHING: list[float | None] = [None, None, None]


@dataclass(slots=True)
class _Class:
    learned: list[float | None] = field(default_factory=lambda: list(_NOTHING))
    remaining: list[float | None] = field(default_factory=lambda: list(_NOTHING))
    heard_at: float = 0.0
    free: bool = False
    levels: list[float | None] = field(default_factory=lambda: list(_NOTHING))
    places: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    at: float = 0.0
    closed_until: float = 0.0
    ramp: float = 1.0
    ramp_since: float = 0.0


class Local:
    """The buckets of one process. Safe to use from any number of threads; never blocks for long.

    `processes` tells how many share the limits now. `clock` counts seconds, monotonically.
    """

    def __init__(
        self,
        caps: Mapping[str, Buckets],
        share: float,
        processes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caps, self._share, self._processes, self._clock = caps, share, processes, clock
        self._classes: dict[str, _Class] = {}
        self._epoch = 0
        self._lock = threading.Lock()

    def restart(self) -> None:
        """Redis was lost: from now on the buckets count, and are nearly empty."""
        with self._lock:
            self._epoch += 1
            for name, state in self._classes.items():
                state.levels = list(_NOTHING)
                self._refilled(name)

    def names(self) -> list[str]:
        """The classes that this process has heard of."""
        with self._lock:
            return list(self._classes)

    def admit(self, name: str, cost: Cost, max_wait: float) -> Verdict:
        """As in buckets.lua: debit at once, and tell how long to wait."""
        with self._lock:
            state, sizes = self._refilled(name)
            wait = max(0.0, state.closed_until - state.at)
            if not self._known(state, sizes):
                return Verdict("unknown", wait, closed_for=wait)
            debits = [1.0, cost.input, cost.output]
            paced = 0.0
            for bucket, size in self._counted(state, sizes):
                debits[bucket] = min(debits[bucket], size * (1 - FLOOR))
                level = (state.levels[bucket] or 0.0) - debits[bucket]
                paced = max(paced, (size * FLOOR - level) * 60 / size)
            wait += paced if paced >= _NO_TIME else 0.0
            if wait > max_wait:
                return Verdict("refused", wait)
            for bucket in _BUCKETS:
                self._add(state, bucket, -debits[bucket])
                state.places[bucket] += debits[bucket]
            return Verdict(
                "admitted", wait, LocalTicket(self._epoch, Buckets(*debits), Buckets(*state.places))
            )

    def confirm(self, name: str, ticket: object, cost: Cost, max_wait: float) -> Verdict:
        """Whether it is this request's turn; one from before Redis was lost queues anew."""
        if not isinstance(ticket, LocalTicket) or ticket.epoch != self._epoch:
            return self.admit(name, cost, max_wait)
        with self._lock:
            state, sizes = self._refilled(name)
            wait = 0.0
            for bucket, size in self._counted(state, sizes):
                behind = state.places[bucket] - (ticket.places[bucket] or 0.0)
                level = (state.levels[bucket] or 0.0) + behind
                if level < size * FLOOR * 0.75:
                    wait = max(wait, (size * FLOOR - level) * 60 / size)
            return Verdict("admitted", wait + max(0.0, state.closed_until - state.at), ticket)

    def release(self, name: str, ticket: object) -> None:
        """Give back what a request that was never sent had taken."""
        with self._lock:
            state, _ = self._refilled(name)
            if isinstance(ticket, LocalTicket) and ticket.epoch == self._epoch:
                for bucket in _BUCKETS:
                    self._add(state, bucket, ticket.debits[bucket] or 0.0)
                    state.places[bucket] -= ticket.debits[bucket] or 0.0

    def settle(
        self, name: str, ticket: object, used: Buckets, reading: Reading, *, complete: bool
    ) -> None:
        """Correct the debit, and remember what the response says of the limits."""
        with self._lock:
            state, _ = self._refilled(name)
            self._remember(state, reading)
            if complete and not any(reading.limits) and not any(state.learned):
                state.free = True
            for bucket in _BUCKETS:
                real = used[bucket]
                if isinstance(ticket, LocalTicket) and ticket.epoch == self._epoch:
                    taken = ticket.debits[bucket] or 0.0
                    self._add(state, bucket, taken - (taken if real is None else real))
                self._at_most(state, bucket, reading.remaining[bucket])

    def reject(
        self, name: str, ticket: object, reading: Reading, seconds: float, *, ramp: bool
    ) -> None:
        """A 429: close the class for `seconds`, and start again from a low level."""
        with self._lock:
            state, sizes = self._refilled(name)
            self._remember(state, reading)
            if isinstance(ticket, LocalTicket) and ticket.epoch == self._epoch:
                for bucket in _BUCKETS:
                    self._add(state, bucket, ticket.debits[bucket] or 0.0)
            for bucket, size in self._counted(state, sizes):
                self._at_most(state, bucket, size * FLOOR)
                self._at_most(state, bucket, reading.remaining[bucket])
            if ramp and state.at > state.ramp_since + 1:
                state.ramp = max(_LEAST_RAMP, self._ramp_of(state, state.at) / 2)
                state.ramp_since = state.at + seconds
            state.closed_until = max(state.closed_until, state.at + seconds)

    def close(self, name: str, seconds: float) -> None:
        """Another process has heard a 429."""
        with self._lock:
            state, _ = self._refilled(name)
            state.closed_until = max(state.closed_until, state.at + seconds)

    def state(self, name: str) -> ClassState:
        """The class as this process sees it."""
        with self._lock:
            state, sizes = self._refilled(name)
            ramp = self._ramp_of(state, state.at)
            return ClassState(
                model_class=name,
                known=self._known(state, sizes),
                limits=Buckets(*(size and size / ramp for size in sizes)),
                levels=Buckets(*state.levels),
                closed_for=max(0.0, state.closed_until - state.at),
                ramp=ramp,
                shared=False,
            )

    def memory(self, name: str) -> tuple[Sequence[float | None], Sequence[float | None], float]:
        """The limits, the levels and the seconds of closure that a fresh Redis may start from.

        Half of what remained a moment ago: others use it too. Nothing if that is long ago.
        """
        with self._lock:
            state = self._classes.get(name)
            if state is None:
                return _NOTHING, _NOTHING, 0.0
            now = self._clock()
            levels = _NOTHING
            if now - state.heard_at <= _FRESH:
                levels = [None if left is None else left / 2 for left in state.remaining]
            return state.learned, levels, max(0.0, state.closed_until - now)

    def _refilled(self, name: str) -> tuple[_Class, list[float | None]]:
        now = self._clock()
        state = self._classes.get(name)
        if state is None:
            state = self._classes[name] = _Class(at=now, ramp_since=now - 2)
        since = min(max(state.at, state.closed_until), now)
        grown = (self._ramp_of(state, since) + self._ramp_of(state, now)) / 2 * (now - since)
        state.at = now
        sizes = self._sizes(name, state)
        for bucket, size in enumerate(sizes):
            level = state.levels[bucket]
            if size is not None:
                full = size / self._ramp_of(state, now)
                level = size * FLOOR if level is None else level + full / 60 * grown
                state.levels[bucket] = min(size, level)
        return state, sizes

    def _sizes(self, name: str, state: _Class) -> list[float | None]:
        part = self._ramp_of(state, state.at) / max(1, self._processes())
        sizes: list[float | None] = []
        for learned, cap in zip(state.learned, self._caps.get(name, Buckets()), strict=True):
            allowed = [x for x in (learned and learned * self._share, cap) if x]
            sizes.append(min(allowed) * part if allowed else None)
        return sizes

    @staticmethod
    def _counted(state: _Class, sizes: list[float | None]) -> list[tuple[int, float]]:
        return [
            (bucket, size)
            for bucket, size in enumerate(sizes)
            if size is not None and state.levels[bucket] is not None
        ]

    @staticmethod
    def _known(state: _Class, sizes: list[float | None]) -> bool:
        return state.free or any(sizes)

    @staticmethod
    def _add(state: _Class, bucket: int, amount: float) -> None:
        level = state.levels[bucket]
        state.levels[bucket] = None if level is None else level + amount

    @staticmethod
    def _at_most(state: _Class, bucket: int, bound: float | None) -> None:
        level = state.levels[bucket]
        if level is not None and bound is not None:
            state.levels[bucket] = min(level, bound)

    @staticmethod
    def _ramp_of(state: _Class, at: float) -> float:
        return min(1.0, state.ramp + _GROWTH * max(0.0, at - state.ramp_since))

    def _remember(self, state: _Class, reading: Reading) -> None:
        if any(reading.limits):
            state.heard_at = state.at
        for bucket in _BUCKETS:
            if reading.limits[bucket]:
                state.learned[bucket] = reading.limits[bucket]
                state.remaining[bucket] = reading.remaining[bucket]
