"""How many calls of one model class this process may have in flight.

Normally any number. Few before anything is known of the limits, and after a 529 – Claude itself is
short of capacity, whatever our limits – as many as it turns out to bear. Nothing is shared, so a
process that dies takes its count along.
"""

from __future__ import annotations

import math
import threading

#: In flight before the first response has told of the limits: a choice, few enough for a small
#: account to refuse no more than some of them, and enough not to hold up a long first call's peers.
SLOW_START = 50

#: Additive increase, multiplicative decrease. [Chiu and Jain, "Analysis of the Increase and
#: Decrease Algorithms for Congestion Avoidance in Computer Networks", 1989]
_DECREASE = 0.5
#: Failures within so many seconds are one sign of overload.
_DECREASE_PAUSE = 1.0
#: Twenty windows of successes make good what one sign of overload took twice over.
_STEPS = 20
#: A call's length, before one has ended (seconds).
_FIRST_LATENCY = 2.0


class Window:
    """A limit on calls in flight. Safe to use from any number of threads; never blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limit = float(SLOW_START)
        self._slow_start = True
        self._peak = 0.0
        self._decreased_at = -math.inf
        self._latency = _FIRST_LATENCY
        self.in_flight = 0
        self.parked = 0

    @property
    def limit(self) -> float:
        """The calls that may be in flight; infinite when nothing restricts them."""
        return self._limit

    @property
    def slow_start(self) -> bool:
        """Whether nothing is known of the limits yet."""
        return self._slow_start

    def enter(self) -> bool:
        """Count a call as in flight, if there is room."""
        with self._lock:
            if self.in_flight >= max(1, int(min(self._limit, 1e9))):
                return False
            self.in_flight += 1
            return True

    def leave(self) -> None:
        """A call has ended, or was not sent after all."""
        with self._lock:
            self.in_flight -= 1

    def park(self, by: int) -> None:
        """Count one more (or less) that waits for room."""
        with self._lock:
            self.parked += by

    def queue_seconds(self) -> float:
        """How long one that has to wait for room would wait, about."""
        with self._lock:
            return self._latency * (1 + self.parked) / max(1.0, self._limit)

    def open(self) -> None:
        """The limits are known: slow start is over."""
        with self._lock:
            if self._slow_start:
                self._slow_start = False
                if not self._peak:
                    self._limit = math.inf

    def free(self) -> int | None:
        """How many more calls there is room for; None: any number."""
        with self._lock:
            if math.isinf(self._limit):
                return None
            return max(0, int(self._limit) - self.in_flight - self.parked)

    def succeeded(self, latency: float) -> None:
        """A call that has left was answered: so many can be borne, and perhaps one more."""
        with self._lock:
            self._latency += 0.1 * (latency - self._latency)
            # Only who used the room learns whether there is more: the call itself counts.
            if not self._peak or self.in_flight + 1 < self._limit / 2:
                return
            self._limit += max(1.0, self._peak / _STEPS) / self._limit
            if self._limit >= 2 * self._peak:
                self._limit, self._peak = float(SLOW_START) if self._slow_start else math.inf, 0.0

    def overloaded(self, now: float) -> None:
        """A 529 came, at `now` seconds of a monotonic clock."""
        with self._lock:
            if now - self._decreased_at < _DECREASE_PAUSE:
                return
            self._decreased_at = now
            carried = min(self._limit, float(self.in_flight))
            self._peak = max(self._peak, carried, float(SLOW_START))
            self._limit = max(1.0, carried * _DECREASE)
