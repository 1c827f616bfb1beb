"""One attempt at a job: claim, prepare, call, judge, settle.

No transaction is open while Claude is thinking; every write after the claim is fenced on it.
"""

from __future__ import annotations

from uuid import UUID

import structlog
from sqlalchemy import Connection

from worker.claude.failures import CallFailed
from worker.claude.inflight import CallControl, Watchdog
from worker.claude.reply import Reply
from worker.engine import followup
from worker.engine.broadcast import Broadcast, Silence, broadcast
from worker.engine.budget import Spent
from worker.engine.calling import Caller
from worker.engine.choose import Choice, Chooser, UnfitRelease, Unrunnable
from worker.engine.gate import NotSent
from worker.engine.holdings import Holdings
from worker.engine.judge import Accepted, Rejected, judge
from worker.engine.patience import persistently
from worker.engine.prepare import Prepared, Preparer
from worker.engine.records import record_of, record_of_failure
from worker.engine.registry import AnyTask
from worker.engine.settling import NOT_OURS, Ended, OpenCall, Settler
from worker.engine.sharing import Sharing
from worker.engine.spending import Purse, Spending
from worker.errors import Failure
from worker.settings import Settings
from worker.storage import settle
from worker.storage.claim import (
    Claim,
    FirstCall,
    Hints,
    Terms,
    claim_and_open,
    claim_job,
    open_call,
)
from worker.storage.dispatch import recall
from worker.storage.engine import autocommit, transaction
from worker.storage.settle import CallRecord
from worker.streams.writer import StreamWriter

log = structlog.get_logger(__name__)

#: A job that was claimed just before its task was paused; the relay holds it from then on. One that
#: is pinned to a version whose model is paused, which the relay does not know, comes back so often.
_PAUSED_SECONDS = 1.0
#: One whose released prompt version does not run here: perhaps another worker is newer.
_UNFIT_SECONDS = 5.0
_DEADLINE_PASSED = Failure("deadline_passed", "its deadline had passed before it was run")


class Attempts:
    """Runs attempts for one worker process; safe to use from any number of threads."""

    def __init__(
        self,
        settings: Settings,
        chooser: Chooser,
        preparer: Preparer,
        caller: Caller,
        holdings: Holdings,
        watchdog: Watchdog,
        sharing: Sharing,
        worker: str,
        spending: Spending,
        writer: StreamWriter | None = None,
    ) -> None:
        self._settings = settings
        self._chooser = chooser
        self._preparer = preparer
        self._caller = caller
        self._holdings = holdings
        self._watchdog = watchdog
        self._sharing = sharing
        self._settler = Settler(holdings)
        self._worker = worker
        self._spending = spending
        self._writer = writer

    def run(self, task: AnyTask, job_id: UUID, hints: Hints | None = None) -> Ended:
        """Take the job through one attempt and say how it ended.

        `hints` is what its message says of it, if that was the relay's.
        """
        if self._holdings.draining.is_set():
            return _hand_back(job_id)
        opened = persistently(lambda: self._claim(task, job_id, hints), self._holdings.ending)
        if isinstance(opened, Ended):
            return opened
        control = CallControl()
        with self._holdings.holding(opened.claim, control), self._watchdog.watching(control):
            if self._holdings.ending.is_set():
                control.abort("shutdown")
            if opened.claim.seconds_left <= 0:
                return self._settler.unrunnable(opened, _DEADLINE_PASSED)
            try:
                prepared = self._preparer.prepare(opened.claim, opened.choice)
            except Unrunnable as error:
                return self._settler.unrunnable(opened, error.failure)
            joined = self._sharing.join(opened, prepared)
            if isinstance(joined, Ended):
                return joined
            live = broadcast(self._writer, joined.claim)
            with self._spending.purse(joined.claim) as purse:
                ended = self._converse(joined, prepared, control, live, purse)
            live.end(ended)
            self._sharing.leave(joined, ended)
            return ended

    def resume(self, opened: OpenCall, prepared: Prepared) -> Ended:
        """Go on with an attempt that this worker has taken over; its next call is open already."""
        control = CallControl()
        with self._holdings.holding(opened.claim, control), self._watchdog.watching(control):
            if self._holdings.ending.is_set():
                control.abort("shutdown")
            with self._spending.purse(opened.claim) as purse:
                ended = self._converse(opened, prepared, control, Silence(), purse)
            self._sharing.leave(opened, ended)
            return ended

    def _converse(
        self,
        opened: OpenCall,
        prepared: Prepared,
        control: CallControl,
        live: Broadcast,
        purse: Purse,
    ) -> Ended:
        """Call Claude, and call again while a rejected reply can be mended within the attempt."""
        request = prepared.request
        while True:
            try:
                reply = self._caller.call(opened, request, control, live, purse)
                accepted = self._judge(opened, prepared, reply)
            except CallFailed as failed:
                record = record_of_failure(failed)
                return self._settler.after_failure(opened, record, failed.failure, failed.facts)
            except NotSent as held:
                return self._settler.put_back(opened, held.wait, held.failure, held=held.held)
            except Rejected as rejected:
                failed_checks = rejected.failed_checks
                record = record_of(reply, rejected.outcome, failed_checks=failed_checks)
                following = followup.mend(opened.after(record), request, reply, rejected)
                if following is None:
                    return self._settler.rejected(opened, record, rejected)
                log.info("asking again", remedy=rejected.remedy, summary=rejected.failure.summary)
                next_opened = self._settler.next_call(
                    opened.after(record, rejected.remedy), record, following
                )
                if next_opened is None:
                    return NOT_OURS
                live.retrying(rejected.failure.summary)
                opened, request = next_opened, following
            except Exception as error:
                return self._settler.surprise(opened, CallRecord(outcome="interrupted"), error)
            else:
                return self._settler.succeed(opened, reply, accepted)

    def _judge(self, opened: OpenCall, prepared: Prepared, reply: Reply) -> Accepted:
        task = opened.choice.task
        return judge(reply, task.output, task.checks, prepared.input, task.warnings)

    def _claim(self, task: AnyTask, job_id: UUID, hints: Hints | None) -> OpenCall | Ended:
        """Claim the job and open its usage row, in one transaction.

        The input is not looked at before that is committed: should reading it kill the process,
        the claim is there to be rescued, and the rescues are counted.
        """
        terms = Terms(self._worker, self._settings.lease_seconds, task.deadline)
        opened = hints and self._claim_foreseen(job_id, terms, hints)
        return opened or self._claim_step_by_step(job_id, terms)

    def _claim_foreseen(self, job_id: UUID, terms: Terms, hints: Hints) -> OpenCall | None:
        """In one statement, with a choice made beforehand; None if that does not stand."""
        foreseen = self._chooser.foresee(job_id, hints)
        if foreseen is None:
            return None
        choice, newest_release = foreseen
        call = self._first_call(choice)
        with autocommit() as connection:
            taken = claim_and_open(connection, job_id, terms, hints, newest_release, call)
        if taken is None:
            return None
        claim, usage_id = taken
        return OpenCall(claim, choice, usage_id, Spent.before(claim))

    def _claim_step_by_step(self, job_id: UUID, terms: Terms) -> OpenCall | Ended:
        """With a choice made by the claimed row."""
        with transaction() as connection:
            claim = claim_job(connection, job_id, terms)
            if claim is None:
                return NOT_OURS
            try:
                choice = self._chooser.choose(connection, claim)
            except Unrunnable as error:
                failure = error.failure
                settle.fail(connection, claim, None, None, error=failure.as_json(claim.attempt))
                log.error("job failed", error=failure.type, summary=failure.summary)
                return Ended("failed", failure)
            except UnfitRelease as error:
                return _snooze(connection, claim, error.failure, _UNFIT_SECONDS)
            if pause := claim.is_paused(choice.model):
                failure = Failure("paused", f"{pause} is paused")
                return _snooze(connection, claim, failure, _PAUSED_SECONDS)
            usage_id = open_call(connection, claim, self._first_call(choice))
        return OpenCall(claim, choice, usage_id, Spent.before(claim))

    def _first_call(self, choice: Choice) -> FirstCall:
        return FirstCall(
            call_model=choice.model,
            prompt=choice.prompt.name,
            call_version=choice.prompt.version,
            prompt_sha256=choice.prompt.sha256,
            variant=choice.variant,
            schema_sha256=self._preparer.schemas[choice.task.name].sha256,
        )


def _snooze(connection: Connection, claim: Claim, failure: Failure, after: float) -> Ended:
    """Put a job back, before any call was opened, that cannot run now; it costs no attempt."""
    settle.requeue(connection, claim, None, None, after=after, error=None, refund_attempt=True)
    return Ended("snoozed", failure, after)


def _hand_back(job_id: UUID) -> Ended:
    """Give a job whose message came too late to a worker that is not shutting down."""
    with transaction() as connection:
        recall(connection, [job_id])
    return NOT_OURS
