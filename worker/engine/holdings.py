"""The claims that this process holds, and what other threads may do to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from worker.claude.facts import Reason
from worker.claude.inflight import CallControl
from worker.storage.claim import Claim


class Holdings:
    """Claims with the control of their calls; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[UUID, tuple[Claim, CallControl]] = {}
        self._last_claim: float | None = None
        self._last_full = time.monotonic()
        #: Worker processes alive in the whole fleet, this one included, as last heard.
        self.processes = 1
        self.draining = threading.Event()
        #: Set when waiting for anything has become pointless: the process is about to end.
        self.ending = threading.Event()

    @contextmanager
    def holding(self, claim: Claim, control: CallControl) -> Iterator[None]:
        """The block in which this process owns `claim`."""
        with self._lock:
            self._held[claim.token] = (claim, control)
            self._last_claim = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._held[claim.token]

    def claims(self) -> list[Claim]:
        """The claims held now."""
        with self._lock:
            return [claim for claim, _ in self._held.values()]

    def abort(self, tokens: set[UUID], reason: Reason) -> None:
        """End the calls of these claims."""
        with self._lock:
            controls = [c for token, (_, c) in self._held.items() if token in tokens]
        for control in controls:
            control.abort(reason)

    def abort_all(self, reason: Reason) -> None:
        """End every call."""
        self.abort({claim.token for claim in self.claims()}, reason)

    def since_claim(self) -> float | None:
        """Seconds since the last claim; None before the first."""
        return None if self._last_claim is None else time.monotonic() - self._last_claim

    def idle_seconds(self, slots: int) -> float:
        """For how long at least one of `slots` has been free, as seen by the callers of this."""
        if len(self._held) >= slots:
            self._last_full = time.monotonic()
        return time.monotonic() - self._last_full
