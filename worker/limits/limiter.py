"""The limiter that a worker process asks before each request to Claude."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from worker.limits.capacity import room
from worker.limits.classes import model_class
from worker.limits.headers import LONGEST_CLOSURE, Reading, read, retry_after
from worker.limits.local import Local
from worker.limits.shared import Lost, Shared
from worker.limits.types import (
    Admission,
    Buckets,
    ClassState,
    Cost,
    RejectionKind,
    Reservation,
    Verdict,
)
from worker.limits.window import Window
from worker.settings import Settings

T = TypeVar("T")

#: A 429 that does not say when to come back (seconds).
_PAUSE_AFTER_429 = 5.0
#: One that waits for room in this process looks again after about so long (seconds).
_LOOK_AGAIN = 0.2
#: Who waits for a class to reopen comes up to so much later than it does (seconds).
_JITTER = 0.25
_MOST_TOKENS = 1e9


class Limiter:
    """Admits requests at the rate that Claude allows the whole fleet.

    Redis holds the buckets; while it is away, this process keeps to its part of the limits. No
    method raises, and none waits: the caller does, for as long as it is told. Safe to use from any
    number of threads. Build it after a fork, never at import.

    `processes` tells how many worker processes live now; `clock` replaces all clocks, for
    simulations.
    """

    def __init__(
        self,
        settings: Settings,
        processes: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] | None = None,
    ) -> None:
        caps = {
            model_class(name): Buckets(cap.requests, cap.input_tokens, cap.output_tokens)
            for name, cap in settings.limits.items()
        }
        self._clock = clock or time.monotonic
        self._processes = processes
        self._local = Local(caps, settings.limit_share, processes, self._clock)
        self._shared = Shared(
            settings.redis_url,
            caps,
            settings.limit_share,
            self._local.memory,
            on_loss=self._local.restart,
            clock=clock,
        )
        self._windows: dict[str, Window] = {}
        self._look_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections to Redis."""
        self._shared.close()

    def admit(self, model: str, estimate: Cost, max_wait: float) -> Admission:
        """Take a place in the queue for a request, at most `max_wait` seconds long.

        With a reservation in the answer the expected cost is debited. Without one nothing is, and
        `wait` says after how many seconds it is worth asking again.
        """
        cost = Cost(_sane(estimate.input), _sane(estimate.output))
        reservation = Reservation(model_class(model), cost, max_wait)
        wait = self._advance(reservation)
        if wait > max_wait and not reservation.ticket:
            self.release(reservation)
            return Admission(wait)
        return Admission(wait, reservation)

    def confirm(self, reservation: Reservation) -> float:
        """Whether the request may be sent now: 0, or the seconds after which to ask again.

        To be asked after every wait: meanwhile the class may have been closed, or its limits
        lowered. If the answer is more than the caller cares to wait, `release` the reservation.
        """
        return 0.0 if reservation.state != "waiting" else self._advance(reservation)

    def settle(
        self, reservation: Reservation, used: Cost | None, headers: Mapping[str, str]
    ) -> None:
        """The call ended with a reply, having cost `used`.

        None: it is not known how much (it timed out, was cut off …); then the estimate stands.
        """
        if used is None:
            self._settle(reservation, Buckets(), headers, complete=False)
        else:
            facts = Buckets(1.0, _sane(used.input), _sane(used.output))
            self._settle(reservation, facts, headers, complete=True)

    def failed(self, reservation: Reservation, headers: Mapping[str, str]) -> None:
        """The call ended with an error, so nothing was generated: the output is given back."""
        self._settle(reservation, Buckets(output=0.0), headers, complete=False)

    def release(self, reservation: Reservation) -> None:
        """The request will not be sent: give back what it had taken."""
        if self._end(reservation) is None:
            return
        name, ticket = reservation.model_class, reservation.ticket
        if ticket:
            self._either(
                lambda: self._shared.release(name, ticket),
                lambda: self._local.release(name, ticket),
            )

    def rejected(
        self, reservation: Reservation, headers: Mapping[str, str], kind: RejectionKind
    ) -> None:
        """Claude refused the request.

        `rate_limited` and `ramp` (a 429 whose `error_code` is `ramp_limit_exceeded`) close the
        class to the fleet until `retry-after`; after `ramp`, its rate grows from what it was, over
        minutes. `overloaded` (529) reduces this process's calls in flight.
        """
        if kind == "overloaded":
            self._window(reservation.model_class).overloaded(self._clock())
            self.failed(reservation, headers)
            return
        latency = self._end(reservation)
        if latency is None:
            return
        name, ticket, reading = reservation.model_class, reservation.ticket, read(headers)
        asked = retry_after(headers)
        seconds = min(_PAUSE_AFTER_429 if asked is None else asked, LONGEST_CLOSURE)
        ramp = kind == "ramp"
        self._either(
            lambda: self._shared.reject(name, ticket, reading, latency, seconds, ramp=ramp),
            lambda: None,
        )
        self._local.reject(name, ticket, reading, seconds, ramp=ramp)

    def capacity(self, models: Iterable[str], horizon: float) -> dict[str, int | None]:
        """For each class of `models`: how many more average requests fit into `horizon` seconds.

        None where nothing limits them.
        """
        names = sorted({model_class(model) for model in models})
        processes = max(1, self._processes())
        rooms = {}
        for state in self._states(names):
            most = room(state, horizon, processes)
            # What this process bears is taken for what each of the fleet bears.
            if (free := self._window(state.model_class).free()) is not None:
                most = free * processes if most is None else min(most, free * processes)
            rooms[state.model_class] = most
        return rooms

    def snapshot(self) -> list[ClassState]:
        """Every class that the fleet has used lately; while Redis is away, that we have."""
        names = {*self._either(self._shared.names, list[str]), *self._local.names()}
        return self._states(sorted(names))

    def _advance(self, reservation: Reservation) -> float:
        """Send it if its turn has come, and else tell how long to wait."""
        name = reservation.model_class
        window = self._window(name)
        if not self._enter(name, window):
            return self._park(reservation, window)
        verdict = self._ask(reservation)
        reservation.ticket = verdict.ticket
        if verdict.status != "unknown":
            window.open()
        if verdict.closed_for:
            self._local.close(name, verdict.closed_for)
        if verdict.wait > 0:
            window.leave()
            self._unpark(reservation, window)
            return verdict.wait + (random.uniform(0, _JITTER) if verdict.closed_for else 0.0)  # noqa: S311
        self._unpark(reservation, window)
        reservation.state, reservation.sent_at = "sent", self._clock()
        return 0.0

    def _ask(self, reservation: Reservation) -> Verdict:
        name, ticket = reservation.model_class, reservation.ticket
        cost, max_wait = reservation.cost, reservation.max_wait
        if not ticket:
            return self._either(
                lambda: self._shared.admit(name, cost, max_wait),
                lambda: self._local.admit(name, cost, max_wait),
            )
        return self._either(
            lambda: self._shared.confirm(name, ticket, cost, max_wait),
            lambda: self._local.confirm(name, ticket, cost, max_wait),
        )

    def _enter(self, name: str, window: Window) -> bool:
        if window.enter():
            return True
        if window.slow_start and self._may_look(name) and self._states([name])[0].known:
            window.open()  # another process has heard of the limits
            return window.enter()
        return False

    def _may_look(self, name: str) -> bool:
        with self._lock:
            now = self._clock()
            if now < self._look_at.get(name, 0.0):
                return False
            self._look_at[name] = now + _LOOK_AGAIN
            return True

    def _park(self, reservation: Reservation, window: Window) -> float:
        wait = window.queue_seconds()
        if not reservation.ticket and not reservation.parked and wait > reservation.max_wait:
            return wait
        if not reservation.parked:
            reservation.parked = True
            window.park(1)
        return min(_LOOK_AGAIN * random.uniform(0.5, 1.5), reservation.max_wait)  # noqa: S311

    @staticmethod
    def _unpark(reservation: Reservation, window: Window) -> None:
        if reservation.parked:
            reservation.parked = False
            window.park(-1)

    def _settle(
        self,
        reservation: Reservation,
        used: Buckets,
        headers: Mapping[str, str],
        *,
        complete: bool,
    ) -> None:
        latency = self._end(reservation)
        if latency is None:
            return
        name, ticket, reading = reservation.model_class, reservation.ticket, read(headers)
        window = self._window(name)
        if complete or reading != Reading():
            window.open()
        if complete:
            window.succeeded(latency)
        self._either(
            lambda: self._shared.settle(name, ticket, used, reading, latency, complete=complete),
            lambda: None,
        )
        # Afterwards: what is remembered must not be taken for what Redis has yet to learn.
        self._local.settle(name, ticket, used, reading, complete=complete)

    def _end(self, reservation: Reservation) -> float | None:
        """The seconds since it was sent; None if it had ended before."""
        state, reservation.state = reservation.state, "ended"
        if state == "ended":
            return None
        window = self._window(reservation.model_class)
        self._unpark(reservation, window)
        if state == "waiting":
            return 0.0
        window.leave()
        return max(0.0, self._clock() - reservation.sent_at)

    def _window(self, name: str) -> Window:
        window = self._windows.get(name)
        if window is None:
            with self._lock:
                window = self._windows.setdefault(name, Window())
        return window

    def _states(self, names: Sequence[str]) -> list[ClassState]:
        return self._either(
            lambda: self._shared.states(names),
            lambda: [self._local.state(name) for name in names],
        )

    def _either(self, shared: Callable[[], T], local: Callable[[], T]) -> T:
        try:
            return shared()
        except Lost:
            return local()


def _sane(tokens: float) -> float:
    return min(max(float(tokens), 0.0), _MOST_TOKENS) if math.isfinite(tokens) else 0.0
