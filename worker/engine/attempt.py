"""One attempt at a job: claim, prepare, call, judge, settle.

No transaction is open while Claude is thinking; every write after the claim is fenced on it.
"""

from __future__ import annotations

from dataclasses import replace
from traceback import extract_tb
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.claude.call import call_claude
from worker.claude.clients import ClientStack
from worker.claude.facts import CallFacts
from worker.claude.failures import CallFailed
from worker.claude.inflight import CallControl, Watchdog
from worker.claude.reply import Reply
from worker.claude.request import Request
from worker.engine import followup
from worker.engine.followup import Spent
from worker.engine.holdings import Holdings
from worker.engine.judge import Rejected, judge
from worker.engine.patience import persistently
from worker.engine.prepare import Preparer, Unrunnable
from worker.engine.registry import AnyTask
from worker.engine.settling import NOT_OURS, Ended, OpenCall, Settler, record_of
from worker.errors import Failure, StorageUnavailable
from worker.settings import Settings
from worker.storage import settle
from worker.storage.claim import claim_job, open_call
from worker.storage.dispatch import recall
from worker.storage.engine import transaction
from worker.storage.settle import CallRecord

log = structlog.get_logger(__name__)

#: A job that was claimed just before its task was paused; the relay holds it from then on.
_PAUSED_SECONDS = 1.0


class Attempts:
    """Runs attempts for one worker process; safe to use from any number of threads."""

    def __init__(
        self,
        settings: Settings,
        preparer: Preparer,
        clients: ClientStack,
        holdings: Holdings,
        watchdog: Watchdog,
        worker: str,
    ) -> None:
        self._settings = settings
        self._preparer = preparer
        self._clients = clients
        self._holdings = holdings
        self._watchdog = watchdog
        self._settler = Settler(holdings)
        self._worker = worker

    def run(self, task: AnyTask, job_id: UUID) -> Ended:
        """Take the job through one attempt and say how it ended."""
        if self._holdings.draining.is_set():
            return _hand_back(job_id)
        opened = persistently(lambda: self._claim(task, job_id), self._holdings.ending)
        if isinstance(opened, Ended):
            return opened
        control = CallControl()
        with self._holdings.holding(opened.claim, control), self._watchdog.watching(control):
            if self._holdings.ending.is_set():
                control.abort("shutdown")
            try:
                return self._call_and_settle(opened, control)
            except (StorageUnavailable, SQLAlchemyError):
                raise
            except Exception as error:
                return self._settle_surprise(opened, error)

    def _call_and_settle(self, opened: OpenCall, control: CallControl) -> Ended:
        task, spent = opened.prepared.task, Spent()
        while True:
            timeout = max(0.0, min(task.call_timeout, opened.seconds_left()))
            try:
                reply = call_claude(self._clients, opened.request, timeout=timeout, control=control)
            except CallFailed as failed:
                record = CallRecord(
                    outcome=failed.outcome,
                    request_id=failed.failure.request_id,
                    latency_ms=failed.latency_ms,
                )
                return self._settler.after_failure(opened, record, failed.failure, failed.facts)
            try:
                accepted = judge(
                    reply, task.output, task.checks, opened.prepared.input, task.warnings
                )
            except Rejected as rejected:
                record = record_of(reply, rejected.outcome)
                request, spent = follow_up(opened, reply, rejected, spent)
                if request is None:
                    facts = CallFacts("transient" if rejected.retryable else "terminal")
                    return self._settler.after_failure(opened, record, rejected.failure, facts)
                log.info("asking again", remedy=rejected.remedy, summary=rejected.failure.summary)
                following = self._settler.next_call(opened, record, request)
                if following is None:
                    return NOT_OURS
                opened = following
            else:
                return self._settler.succeed(opened, reply, accepted)

    def _settle_surprise(self, opened: OpenCall, error: Exception) -> Ended:
        """Whatever was not foreseen ends the attempt, not the job's chance to be looked after."""
        # Only the place: the message of an unknown exception may quote an input.
        place = extract_tb(error.__traceback__)[-1]
        summary = f"unforeseen {type(error).__name__}"
        log.error(summary, file=place.filename, line=place.lineno)
        failure = Failure("internal_error", summary, f"{summary}: {error}")
        record = CallRecord(outcome="interrupted")
        return self._settler.after_failure(opened, record, failure, CallFacts("transient"))

    def _claim(self, task: AnyTask, job_id: UUID) -> OpenCall | Ended:
        """Claim the job and open its usage row, in one transaction."""
        with transaction() as connection:
            claim = claim_job(
                connection,
                job_id,
                worker=self._worker,
                lease_seconds=self._settings.lease_seconds,
                deadline_seconds=task.deadline,
            )
            if claim is None:
                return NOT_OURS
            try:
                prepared = self._preparer.prepare(claim)
            except Unrunnable as error:
                failure = error.failure
                settle.fail(connection, claim, None, None, error=failure.as_json(claim.attempt))
                log.error("job failed", error=failure.type, summary=failure.summary)
                return Ended("failed", failure)
            if pause := claim.is_paused(prepared.request.model):
                failure = Failure("paused", f"{pause} is paused")
                settle.requeue(
                    connection, claim, None, None, after=0, error=None, refund_attempt=True
                )
                return Ended("snoozed", failure, _PAUSED_SECONDS)
            usage_id = open_call(
                connection,
                claim,
                call=1,
                model=prepared.request.model,
                prompt=prepared.prompt.name,
                prompt_version=prepared.prompt.version,
                prompt_sha256=prepared.prompt.sha256,
            )
        return OpenCall(claim, prepared, usage_id, prepared.request)


def follow_up(
    opened: OpenCall, reply: Reply, rejected: Rejected, spent: Spent
) -> tuple[Request | None, Spent]:
    """The request that may mend a rejected reply within the attempt; None when nothing is left."""
    prompt = opened.prepared.prompt
    match rejected.remedy:
        case "repair" if spent.repairs < opened.prepared.task.repairs:
            request = followup.repair(opened.request, reply.text, rejected.problems)
            return request, replace(spent, repairs=spent.repairs + 1)
        case "enlarge":
            return followup.enlarge(opened.request, prompt), spent
        case "fall_back":
            return followup.fall_back(opened.request, prompt), spent
    return None, spent


def _hand_back(job_id: UUID) -> Ended:
    """Give a job whose message came too late to a worker that is not shutting down."""
    with transaction() as connection:
        recall(connection, [job_id])
    return NOT_OURS
