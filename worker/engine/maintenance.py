"""The loop that looks after what nobody else does: dead workers' jobs, lost messages, old rows.

Every worker runs it; there is no leader. The statements skip rows that another worker has locked.
"""

from __future__ import annotations

import random
import time

import structlog

from worker.engine.holdings import Holdings
from worker.engine.loops import Loop
from worker.settings import Settings
from worker.storage import alerts, rescue, webhooks
from worker.storage.engine import transaction

log = structlog.get_logger(__name__)

_PRUNE_SECONDS = 60.0
#: Rows deleted per statement; as long as a batch is full, the next follows at once.
_PRUNE_BATCH = 500
_DAY = 86400.0
_KEEP_ALERTS_DAYS = 90


class MaintenanceLoop(Loop):
    """Rescues, sends lost messages again, and deletes what is past its retention time."""

    name = "maintenance"

    def __init__(self, settings: Settings, holdings: Holdings, slots: int) -> None:
        super().__init__()
        self._settings = settings
        self._holdings = holdings
        self._slots = slots
        # Every worker looks; a third of a lease is soon enough, and jitter spreads them.
        self._interval = min(5.0, settings.lease_seconds / 3)
        # Longer than a step takes, and too short for a lease to run out unrenewed.
        self._silence = settings.lease_seconds / 2
        self._heard = time.monotonic()
        self._grace_until = self._heard + self._silence
        self._prune_at = time.monotonic() + random.uniform(0, _PRUNE_SECONDS)  # noqa: S311

    def step(self) -> float:
        self._rescue()
        self._resend()
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_SECONDS
            self._prune()
        return self._interval * random.uniform(0.7, 1.3)  # noqa: S311 – spreads the workers

    def _rescue(self) -> None:
        with transaction() as connection:
            rescue.begin(connection)
            if not self._leases_are_trusted():
                return
            rescued = rescue.rescue_expired(connection, grace=self._silence)
        for job in rescued:
            report = log.error if job.state == "failed" else log.warning
            report(
                "worker lost: job rescued",
                job=str(job.id),
                task=job.task,
                lost=job.worker,
                state=job.state,
            )

    def _leases_are_trusted(self) -> bool:
        """Whether workers can have renewed their leases; to be asked when Postgres has answered.

        Postgres was away for us – gone, frozen, unreachable – so perhaps for all of them.
        """
        now = time.monotonic()
        if now - self._heard > self._silence:
            log.warning("Postgres was silent: leases get time to be renewed")
            self._grace_until = now + self._silence
        self._heard = now
        return now >= self._grace_until

    def _resend(self) -> None:
        patience = self._settings.redispatch_seconds
        idle = self._holdings.idle_seconds(self._slots) >= patience
        with transaction() as connection:
            lost = rescue.requeue_lost_messages(connection, idle=idle, patience=patience)
        if lost:
            log.warning("messages lost: jobs are sent again", jobs=lost)

    def _prune(self) -> None:
        kept = {
            "succeeded": self._settings.keep_succeeded_days,
            "failed": self._settings.keep_failed_days,
            "cancelled": self._settings.keep_cancelled_days,
        }
        for state, days in kept.items():
            while days is not None and not self.stopping.is_set():
                with transaction() as connection:
                    deleted = rescue.prune(
                        connection, state, older_than=days * _DAY, limit=_PRUNE_BATCH
                    )
                if deleted:
                    log.info("jobs deleted after their retention time", state=state, jobs=deleted)
                if deleted < _PRUNE_BATCH:
                    break
        self._prune_webhooks()
        with transaction() as connection:
            rescue.forget_workers(connection, silent=3600.0)
            alerts.prune(connection, older_than=_KEEP_ALERTS_DAYS * _DAY, limit=_PRUNE_BATCH)

    def _prune_webhooks(self) -> None:
        older_than = self._settings.keep_webhooks_days * _DAY
        deleted = _PRUNE_BATCH
        while deleted == _PRUNE_BATCH and not self.stopping.is_set():
            with transaction() as connection:
                deleted = webhooks.prune(connection, older_than=older_than, limit=_PRUNE_BATCH)
