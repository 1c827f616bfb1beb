"""The heartbeat of a worker: renews its leases, and learns which claims to let go."""

from __future__ import annotations

import time

import structlog

from worker.engine.holdings import Holdings
from worker.engine.loops import Loop
from worker.settings import Settings
from worker.storage import leases
from worker.storage.engine import transaction

log = structlog.get_logger(__name__)

#: How soon a running job hears that it was cancelled.
_CANCEL_SECONDS = 0.5


class LeaseLoop(Loop):
    """Renews all leases of the process every third of their length, in one statement."""

    name = "leases"

    def __init__(self, settings: Settings, holdings: Holdings, worker: str, slots: int) -> None:
        super().__init__()
        self._settings = settings
        self._holdings = holdings
        self._worker = worker
        self._slots = slots
        self._renew_at = 0.0

    def step(self) -> float:
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew()
            # Counted from before the statement, so that a slow one does not stretch the interval.
            self._renew_at = now + self._settings.lease_seconds / 3
        elif self._holdings.claims():
            with transaction() as connection:
                cancelled = leases.cancelled_claims(connection, self._worker)
            self._holdings.abort(cancelled, "cancelled")
        return _CANCEL_SECONDS

    def _renew(self) -> None:
        claims = self._holdings.claims()
        with transaction() as connection:
            self._holdings.processes = leases.report_worker(
                connection,
                self._worker,
                slots=self._slots,
                running=len(claims),
                since_claim=self._holdings.since_claim(),
                lease_seconds=self._settings.lease_seconds,
            )
            if not claims:
                return
            renewal = leases.renew(connection, claims, lease_seconds=self._settings.lease_seconds)
        # A claim that was settled meanwhile is not held any more: aborting it finds nothing.
        self._holdings.abort(renewal.cancelled, "cancelled")
        if lost := renewal.lost & {claim.token for claim in self._holdings.claims()}:
            log.warning("leases lost: other workers have the jobs now", jobs=len(lost))
            self._holdings.abort(lost, "lost")
