"""The buckets of the fleet, in Redis: one script call a decision, and none that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import redis
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.limits.headers import Reading
from worker.limits.types import Buckets, ClassState, Cost, Verdict
from worker.redis_script import Script

log = structlog.get_logger(__name__)

PREFIX = "claude-jobs:limits:"

_SCRIPT = (Path(__file__).parent / "buckets.lua").read_text()

#: Longer, and Redis counts as lost (seconds).
_PATIENCE = 0.25
#: Between two attempts to find it again (seconds).
_RETRY_PAUSE = 1.0
#: A decision takes a fraction of a millisecond: a few connections serve a thousand threads.
_CONNECTIONS = 8

Numbers = Sequence[float | None]
Memory = Callable[[str], tuple[Numbers, Numbers, float]]


class Lost(Exception):
    """Redis cannot be asked now."""


class Shared:
    """Runs `buckets.lua`. Every method raises `Lost`, at once, while Redis is away.

    `memory` gives the limits, levels and closure that a Redis without a memory starts from.
    `clock` replaces the server's time, for simulations.
    """

    def __init__(
        self,
        url: str,
        caps: Mapping[str, Buckets],
        share: float,
        memory: Memory,
        *,
        on_loss: Callable[[], None],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._script = Script(self._client.connection_pool, _SCRIPT)
        self._caps, self._share, self._memory = caps, share, memory
        self._on_loss, self._clock = on_loss, clock
        self._slots = threading.BoundedSemaphore(_CONNECTIONS)
        self._lock = threading.Lock()
        self._lost = False
        self._retry_at = 0.0
        self._losses = 0
        self._resumed: dict[str, int] = {}

    @property
    def lost(self) -> bool:
        """Whether Redis did not answer when it was last asked."""
        return self._lost

    def close(self) -> None:
        """Close the connections."""
        self._script.close()
        self._client.close()

    def admit(self, name: str, cost: Cost, max_wait: float) -> Verdict:
        """Debit at once, and tell how long to wait; nothing if that exceeds `max_wait`."""
        return _verdict(self._run("admit", name, max_wait, 1, cost.input, cost.output))

    def confirm(self, name: str, ticket: object, cost: Cost, max_wait: float) -> Verdict:
        """Whether it is this request's turn; one that Redis does not know queues anew."""
        arguments = (_bytes(ticket), max_wait, 1, cost.input, cost.output)
        return _verdict(self._run("confirm", name, *arguments))

    def release(self, name: str, ticket: object) -> None:
        """Give back what a request that was never sent had taken."""
        self._run("release", name, _bytes(ticket))

    def settle(
        self,
        name: str,
        ticket: object,
        used: Buckets,
        reading: Reading,
        latency: float,
        *,
        complete: bool,
    ) -> None:
        """Correct the debit, and learn from what the response says of the limits."""
        facts = (*used, *reading.limits, *reading.remaining, latency, int(complete))
        self._run("settle", name, _bytes(ticket), *facts)

    def reject(
        self,
        name: str,
        ticket: object,
        reading: Reading,
        latency: float,
        seconds: float,
        *,
        ramp: bool,
    ) -> None:
        """A 429: close the class for `seconds`, and start again from a low level."""
        facts = (*reading.limits, *reading.remaining, latency, seconds, int(ramp))
        self._run("reject", name, _bytes(ticket), *facts)

    def states(self, names: Sequence[str]) -> list[ClassState]:
        """The classes as they are now, in one round trip."""

        calls = [self._call("peek", name) for name in names]
        rows = self._guarded(lambda: self._script.run(calls))
        return [_state(name, row) for name, row in zip(names, rows, strict=True)]

    def names(self) -> list[str]:
        """The classes that the fleet has used within a day."""

        def ask() -> list[bytes]:
            return list(self._client.scan_iter(match=f"{PREFIX}*", count=1000))

        keys = self._guarded(ask)
        return sorted(key.decode(errors="replace").removeprefix(PREFIX) for key in keys)

    def _run(self, operation: str, name: str, *rest: float | bytes | None) -> Any:
        losses = self._losses
        call = [*self._call(operation, name), *(_argument(value) for value in rest)]
        (answer,) = self._guarded(lambda: self._script.run([call]))
        self._resumed[name] = losses
        return answer

    def _call(self, operation: str, name: str) -> list[str | bytes | float]:
        limits, levels, closed_for = self._memory(name)
        now = None if self._clock is None else self._clock()
        caps = self._caps.get(name, Buckets())
        numbers = [now, *caps, self._share, *limits, *levels, closed_for]
        resuming = self._resumed.get(name, 0) != self._losses
        return [PREFIX + name, operation, *(_argument(x) for x in numbers), int(resuming)]

    def _guarded(self, ask: Callable[[], Any]) -> Any:
        """Run `ask`, unless Redis is away; while it is, one thread a second looks."""
        if self._lost and not self._may_look():
            raise Lost
        while not self._slots.acquire(timeout=_PATIENCE):
            if self._lost:  # else many ask at once, and each call is bounded
                raise Lost
        try:
            answer = ask()
        except (RedisError, OSError) as error:
            self._note_loss(error)
            raise Lost from None
        finally:
            self._slots.release()
        if self._lost:
            self._note_return()
        return answer

    def _may_look(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now < self._retry_at:
                return False
            self._retry_at = now + _RETRY_PAUSE
            return True

    def _note_loss(self, error: Exception) -> None:
        with self._lock:
            self._retry_at = time.monotonic() + _RETRY_PAUSE
            if self._lost:
                return
            self._lost = True
            self._losses += 1
            self._on_loss()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        log.warning("Redis lost: each process keeps to its part of the limits", error=reason)

    def _note_return(self) -> None:
        with self._lock:
            if not self._lost:
                return
            self._lost = False
        log.info("Redis is back: the fleet shares its limits again")


def _argument(value: float | bytes | None) -> bytes | float:
    return b"" if value is None else value


def _bytes(ticket: object) -> bytes:
    return ticket if isinstance(ticket, bytes) else b""


def _verdict(answer: Sequence[bytes]) -> Verdict:
    status, wait, ticket, closed_for = answer
    word = cast(Literal["unknown", "refused", "admitted"], status.decode())
    return Verdict(word, float(wait), ticket, float(closed_for))


def _state(name: str, row: Sequence[bytes]) -> ClassState:
    known, closed_for, ramp, *rest = (float(cell) if cell else None for cell in row)
    return ClassState(
        model_class=name,
        known=bool(known),
        limits=Buckets(*rest[0::3]),
        levels=Buckets(*rest[1::3]),
        averages=Buckets(*rest[2::3]),
        closed_for=closed_for or 0.0,
        ramp=ramp if ramp is not None else 1.0,
    )
