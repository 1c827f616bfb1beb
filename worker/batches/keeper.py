"""Looking after batches that were submitted: polling, reconciling, ingesting, giving up.

Each batch says when it is to be looked at next. Whoever comes first becomes its keeper for a while;
one that dies leaves it to the next. Every step can be taken again.
"""

from __future__ import annotations

import random
import threading
from uuid import UUID, uuid4

import structlog

from worker.batches.ingest import Ingester
from worker.batches.reconcile import Reconciler
from worker.claude.batch_wire import RemoteBatch
from worker.claude.batches import BatchClient
from worker.claude.failures import CallFailed
from worker.engine.alerts import announce
from worker.engine.finding import Finding
from worker.engine.policy import Backoff
from worker.limits.headers import retry_after
from worker.settings import Settings
from worker.storage import batch_members, batches
from worker.storage.batches import Kept
from worker.storage.engine import transaction

log = structlog.get_logger(__name__)

#: After looks in vain: the API is away, or has no room.
_BACKOFF = Backoff(base=5.0, cap=600.0)
#: Results that are incomplete so often are taken for all there is.
_MOST_BREAKS = 5


def poll_pause(settings: Settings, age: float | None) -> float:
    """Seconds until a batch of this age is looked at again: sooner while it is young."""
    longest = settings.batch_poll_seconds
    pause = min(max((age or 0.0) / 10, longest / 5), longest)
    return pause * random.uniform(0.8, 1.2)  # noqa: S311 – spreads the polls


class Keeper:
    """Looks after one batch at a time."""

    def __init__(
        self,
        settings: Settings,
        client: BatchClient,
        reconciler: Reconciler,
        ingester: Ingester,
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._client = client
        self._reconciler = reconciler
        self._ingester = ingester
        self._stopping = stopping
        # Long enough for a chunk of results whose follow-ups wait for a place.
        self._lease = 4 * settings.lease_seconds

    def look(self) -> bool:
        """Look after the batch that is due first; False if there is none."""
        token = uuid4()
        with transaction() as connection:
            batch = batches.take_due(connection, token, self._lease)
        if batch is None:
            return False
        with structlog.contextvars.bound_contextvars(batch=str(batch.id)):
            try:
                self._attend(batch, token)
            except CallFailed as failed:
                self._in_vain(batch, token, failed)
        return True

    def _attend(self, batch: Kept, token: UUID) -> None:
        match batch.state:
            case "intent" if batch.sent_at is None:
                self._give_up(batch, token, "its worker died before it was sent", rescued=True)
            case "intent":
                self._reconcile(batch, token)
            case "submitted":
                self._poll(batch, token)
            case _:
                self._ingest(batch, token)

    def _reconcile(self, batch: Kept, token: UUID) -> None:
        verdict = self._reconciler.look_for(batch)
        if verdict.remote is not None:
            remote = verdict.remote
            with transaction() as connection:
                found = batches.mark_submitted(
                    connection,
                    batch.id,
                    anthropic_id=remote.id,
                    expires_at=remote.expires_at,
                    look_after=0.0,
                )
            if found:
                log.info("batch found: its answer had been lost", anthropic_id=remote.id)
        elif verdict.kind == "absent":
            self._give_up(
                batch, token, "it was never created: its answer was lost, and no list has it"
            )
        else:
            pause = min(self._settings.batch_confirm_seconds / 5, poll_pause(self._settings, None))
            self._later(batch, token, pause)

    def _poll(self, batch: Kept, token: UUID) -> None:
        assert batch.anthropic_id is not None  # noqa: S101 – a submitted one has it
        try:
            remote = self._client.retrieve(batch.anthropic_id)
        except CallFailed as failed:
            young = (batch.age or 0.0) <= self._settings.batch_confirm_seconds
            if failed.failure.status != 404:
                raise
            # A 404 right after a batch was created has been seen; later, one may be a slip.
            if young or batch.failures < _MOST_BREAKS:
                pause = poll_pause(self._settings, batch.age)
                self._later(batch, token, pause, failures=batch.failures + 1)
            else:
                self._give_up(batch, token, "Anthropic does not have it any more", gone=True)
            return
        if not remote.has_ended:
            self._wait(batch, token, remote)
            return
        if remote.archived_at is not None:
            self._give_up(batch, token, "its results are gone", gone=True)
            return
        counts = remote.request_counts.model_dump(exclude={"processing"})
        with transaction() as connection:
            batches.mark_ended(
                connection, batch.id, token, remote.ended_at or remote.created_at, counts
            )
        log.info("batch ended", requests=batch.requests, **counts)
        self._ingest(batch, token)

    def _wait(self, batch: Kept, token: UUID, remote: RemoteBatch) -> None:
        with transaction() as connection:
            wanted = batch_members.any_wanted(connection, batch.id)
        if remote.processing_status == "in_progress" and (batch.cancel_requested or not wanted):
            self._client.cancel(remote.id)
            log.info("batch is being cancelled", by="request" if wanted else "all its jobs")
        self._later(batch, token, poll_pause(self._settings, batch.age), late=batch.overdue)

    def _ingest(self, batch: Kept, token: UUID) -> None:
        before, patient = self._ingester.settled, batch.failures < _MOST_BREAKS
        try:
            read = self._ingester.ingest(
                batch, lambda: self._goes_on(batch, token), patient=patient
            )
        except CallFailed as failed:
            if self._ingester.settled > before:  # it broke off, and there is less to read next time
                self._later(batch, token, _pause(1))
                return
            if failed.failure.status != 404 or patient:
                raise
            self._give_up(batch, token, "its results are gone", gone=True)
            return
        if read is None:  # stopped, or somebody else's now
            self._later(batch, token, 0.0, failures=batch.failures)
            return
        if patient and (read.left or read.lines - read.broken < batch.requests):
            log.warning("not all results of a batch could be settled", **read._asdict())
            # What one worker does not know, another one may: they get their chance soon.
            left = read.left > 0
            pause = self._settings.batch_poll_seconds if left else _pause(batch.failures + 1)
            self._later(batch, token, pause, failures=batch.failures + 1)
            return
        if missing := self._ingester.settle_missing(batch):
            log.error("a batch has no results for some of its jobs", jobs=missing)
        with transaction() as connection:
            done = batches.mark_ingested(connection, batch.id, token)
        if done is not None:
            log.info("batch ingested", requests=batch.requests, cost_usd=str(done["cost_usd"]))

    def _goes_on(self, batch: Kept, token: UUID) -> bool:
        if self._stopping.is_set():
            return False
        with transaction() as connection:
            return batch.id in batches.keep(connection, [batch.id], token, self._lease)

    def _give_up(
        self, batch: Kept, token: UUID, why: str, *, gone: bool = False, rescued: bool = False
    ) -> None:
        """Fail a batch as a whole; its jobs go back.

        `gone`: it did exist and may have been billed, so they do not go into another one.
        """
        with transaction() as connection:
            if not batches.mark_failed(connection, batch.id, token, why):
                return
            released = batch_members.release(
                connection,
                batch.id,
                lane="interactive" if gone else "batch",
                made=batch.sent_at is not None,
                rescued=rescued,
            )
            raised = [_failed(batch, why).put(connection)] if gone else []
        announce(raised)
        log.warning("batch given up: its jobs go back", reason=why, jobs=released)

    def _in_vain(self, batch: Kept, token: UUID, failed: CallFailed) -> None:
        failures = batch.failures + 1
        asked = retry_after(failed.facts.headers) or 0.0
        pause = max(_pause(failures), asked)
        if failures == 1:
            log.warning("batch cannot be looked at", summary=failed.failure.summary)
        self._later(batch, token, pause, failures=failures, late=batch.overdue)

    def _later(
        self, batch: Kept, token: UUID, after: float, *, failures: int = 0, late: bool = False
    ) -> None:
        with transaction() as connection:
            batches.look_later(
                connection, batch.id, token, after=after, failures=failures, reported=late
            )
            raised = [_late(batch).put(connection)] if late else []
        announce(raised)


def _pause(failures: int) -> float:
    return _BACKOFF.ceiling(failures) * random.uniform(0.5, 1.0)  # noqa: S311 – spreads the looks


def _failed(batch: Kept, why: str) -> Finding:
    message = (
        f"a batch of {batch.requests:,} requests failed ({why}): its jobs are run one by one at "
        f"full price, though it may have been billed; see `claude-jobs batches show {batch.id}`"
    )
    details = {"batch": str(batch.id), "anthropic_id": batch.anthropic_id}
    return Finding("batch_failed", batch.model, message, details)


def _late(batch: Kept) -> Finding:
    message = (
        f"a batch of {batch.requests:,} requests has not ended an hour after it should have "
        f"expired: see `claude-jobs batches show {batch.id}`"
    )
    details = {"batch": str(batch.id), "anthropic_id": batch.anthropic_id}
    return Finding("batch_late", batch.model, message, details)
