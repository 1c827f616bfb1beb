"""Members that come back from a batch without a reply that could be judged."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from sqlalchemy import Connection

from worker.engine.checks import storable
from worker.engine.holdings import Holdings
from worker.engine.patience import persistently
from worker.engine.settling import NOT_OURS, Ended
from worker.errors import Failure
from worker.storage import settle
from worker.storage.batch_members import Member
from worker.storage.engine import transaction
from worker.storage.settle import CallRecord

log = structlog.get_logger(__name__)


class Returner:
    """Writes what becomes of them, through outages if need be."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def give_back(self, member: Member, record: CallRecord, failure: Failure) -> Ended | None:
        """Put a job back whose request was not carried out: interactive, with its attempt.

        Once its deadline has passed, it fails. None: no job waits for the call any more.
        """
        claim = member.claim
        if claim is None or claim.seconds_left <= 0:
            return self.fail(member, record, failure)
        error = storable(failure.as_json(claim.attempt))

        def requeue(connection: Connection) -> bool:
            return settle.requeue(
                connection,
                claim,
                member.usage_id,
                record,
                after=0.0,
                error=error,
                refund_attempt=True,
            )

        log.info("job goes back to the interactive lane", summary=failure.summary)
        return Ended("snoozed", failure, 0.0) if self._write(requeue) else NOT_OURS

    def fail(self, member: Member, record: CallRecord, failure: Failure) -> Ended | None:
        """End a job as failed; None: no job waits for the call any more."""
        claim = member.claim
        if claim is None:
            self.meter(member, record)
            return None
        error = storable(failure.as_json(claim.attempt))

        def fail(connection: Connection) -> bool:
            return settle.fail(connection, claim, member.usage_id, record, error=error)

        log.error("job failed", error=failure.type, summary=failure.summary)
        return Ended("failed", failure) if self._write(fail) else NOT_OURS

    def meter(self, member: Member, record: CallRecord) -> None:
        """Put a call on the books that no job waits for any more."""

        def meter() -> None:
            with transaction() as connection:
                settle.meter(connection, member.usage_id, record)

        persistently(meter, self._holdings.ending)
        log.info("call metered: its job was cancelled while it was in the batch")

    def _write(self, statement: Callable[[Connection], bool]) -> bool:
        def write() -> bool:
            with transaction() as connection:
                return statement(connection)

        return persistently(write, self._holdings.ending)
