"""How an attempt ends: what is written, and what Celery is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from traceback import extract_tb
from typing import Literal, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from worker.claude.facts import CallFacts
from worker.claude.reply import Reply, describe
from worker.claude.request import Request
from worker.engine.budget import Spent
from worker.engine.checks import storable
from worker.engine.choose import Choice
from worker.engine.holdings import Holdings
from worker.engine.judge import Accepted, Rejected, Remedy
from worker.engine.patience import persistently
from worker.engine.policy import Budget, decide
from worker.engine.records import record_of
from worker.errors import Abandon, Cancelled, Fail, Failure, PauseQueue, Retry, Snooze
from worker.storage import budgets, control, settle
from worker.storage.claim import Claim
from worker.storage.engine import autocommit, transaction
from worker.storage.lane_leaders import request_of
from worker.storage.settle import CallRecord

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The deadline of a job that waits for money comes no nearer than so many seconds.
DEADLINE_AHEAD = 3600.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended. `not_ours`: another worker has the job, or it needs no attempt.

    `followed`: other jobs may be waiting for the result.
    """

    state: Literal["succeeded", "retry", "snoozed", "failed", "cancelled", "not_ours"]
    failure: Failure | None = None
    after: float | None = None
    followed: bool = False


NOT_OURS = Ended("not_ours")


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A claimed job whose usage row is `in_flight`.

    `request_key`: it makes that request for others as well, and its result may be served again; of
    the batch lane that is the lane's key of the request.
    `source` is where its reply comes from: `api`, or `batch` for a member of a Message Batch.
    """

    claim: Claim
    choice: Choice
    usage_id: int
    spent: Spent
    request_key: str | None = None
    opened_at: float = field(default_factory=time.monotonic)
    source: Literal["api", "batch"] = "api"

    def seconds_left(self) -> float:
        """Until the job's deadline."""
        return self.claim.seconds_left - (time.monotonic() - self.opened_at)

    def is_first(self) -> bool:
        """Whether the attempt has made no call before this one."""
        return self.spent == Spent.before(self.claim)

    def after(self, call: CallRecord, remedy: Remedy = "none") -> OpenCall:
        """With what its call has used up, and the remedy that follows it."""
        return replace(self, spent=self.spent.plus(call, repairs=int(remedy == "repair")))


class Settler:
    """Writes outcomes, through outages if need be."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def unrunnable(self, opened: OpenCall, failure: Failure) -> Ended:
        """Fail a job that cannot become a request; the call that was never made is withdrawn."""
        error = storable(failure.as_json(opened.claim.attempt))

        def fail(connection: Connection) -> bool:
            held = settle.fail(connection, opened.claim, None, None, error=error)
            if held:
                settle.withdraw_call(connection, opened.usage_id)
            return held

        if not self._write_all(fail):
            return _lost_claim()
        log.error("job failed", error=failure.type, summary=failure.summary)
        return Ended("failed", failure)

    def put_back(
        self, opened: OpenCall, after: float, why: Failure, *, held: bool = False
    ) -> Ended:
        """Return a job whose next call may not be sent for `after` seconds, for the reason `why`.

        It costs no attempt, unless the attempt has made calls already: those were paid for. It
        fails when its deadline comes before, or when that was its last attempt. A job that is
        `held` does neither, and says why it waits.
        """
        claim, unspent = opened.claim, held or opened.is_first()
        hopeless = after >= opened.seconds_left() or not (
            unspent or claim.attempt < claim.max_attempts
        )
        if hopeless and not held:
            return self.unrunnable(opened, why)

        def requeue(connection: Connection) -> bool:
            ours = settle.requeue(
                connection,
                opened.claim,
                None,
                None,
                after=after,
                error=why.as_json(claim.attempt) if held else None,
                refund_attempt=unspent,
            )
            if ours:
                settle.withdraw_call(connection, opened.usage_id)
            if ours and held:
                budgets.spare_deadline(connection, claim.id, ahead=DEADLINE_AHEAD)
            return ours

        if not self._write_all(requeue):
            return _lost_claim()
        log.info("job snoozed", after=round(after, 3), summary=why.summary)
        return Ended("snoozed", why, after)

    def next_call(self, opened: OpenCall, record: CallRecord, request: Request) -> OpenCall | None:
        """Complete the open call and open one for `request`; None when the claim was lost."""
        correction = request.correction and request.correction._asdict()
        usage_id = self._write(
            lambda connection: settle.next_call(
                connection,
                opened.claim,
                opened.usage_id,
                record,
                model=request.model,
                max_tokens=request.max_tokens,
                correction=correction,
            )
        )
        if usage_id is None:
            _lost_claim()
            return None
        return replace(opened, usage_id=usage_id)

    def succeed(self, opened: OpenCall, reply: Reply, accepted: Accepted) -> Ended:
        """Store the validated output and end the job."""
        prompt = opened.choice.prompt
        batch, key = opened.source == "batch", opened.request_key
        record = record_of(reply, "ok", batch=batch)
        try:
            success = self._write(
                lambda connection: settle.succeed(
                    connection,
                    opened.claim,
                    opened.usage_id,
                    record,
                    output=accepted.output.model_dump_json(),
                    warnings=accepted.warnings,
                    prompt=prompt.name,
                    prompt_version=prompt.version,
                    prompt_sha256=prompt.sha256,
                    variant=opened.choice.variant,
                    model=reply.model,
                    request_sha256=key and request_of(key),
                    leads=key,
                    source=opened.source,
                )
            )
        except (DataError, IntegrityError) as error:
            # Whatever it is, it will be so the next time: not a job for a rescue.
            summary = f"Postgres refused the result ({type(error.orig).__name__})"
            failure = Failure("unstorable_output", summary, str(error.orig), reply.request_id)
            return self.after_failure(
                opened,
                record_of(reply, "invalid_output", batch=batch),
                failure,
                CallFacts("terminal"),
            )
        if success is None:
            return _lost_claim()
        log.info("job succeeded", attempt=opened.claim.attempt, **describe(reply))
        return Ended("succeeded", followed=success.followed)

    def after_failure(
        self, opened: OpenCall, record: CallRecord, failure: Failure, facts: CallFacts
    ) -> Ended:
        """Decide what follows a failed call, and write it."""
        claim, task = opened.claim, opened.choice.task
        beyond = opened.after(record).spent.beyond(task)
        decision = decide(facts, _budget(opened, spent=beyond is not None), task.backoff)
        if beyond is not None and facts.kind == "transient":
            failure = _over_budget(beyond, failure)
        # What Claude or a check wrote may hold what jsonb does not take.
        error = storable(failure.as_json(claim.attempt))
        logged = {"error": failure.type, "summary": failure.summary, "attempt": claim.attempt}

        def requeue(after: float, *, refund: bool) -> bool:
            return self._write(
                lambda connection: settle.requeue(
                    connection,
                    claim,
                    opened.usage_id,
                    record,
                    after=after,
                    error=error,
                    refund_attempt=refund,
                )
            )

        match decision:
            case Fail():
                held = self._write(
                    lambda c: settle.fail(c, claim, opened.usage_id, record, error=error)
                )
                log.error("job failed", **logged)
                ended = Ended("failed", failure)
            case Retry(after):
                held = requeue(after, refund=False)
                log.warning("attempt failed, will retry", after=round(after, 3), **logged)
                ended = Ended("retry", failure, after)
            case Snooze(after):
                held = requeue(after, refund=True)
                log.info("job snoozed", after=round(after, 3), **logged)
                ended = Ended("snoozed", failure, after)
            case PauseQueue(reason):
                # First the pause: the job is due again at once, and must not be dispatched.
                self.pause_everything(reason, failure)
                held = requeue(0.0, refund=True)
                ended = Ended("snoozed", failure, 0.0)
            case Cancelled():
                held = self._write(lambda c: settle.cancel(c, claim, opened.usage_id, record))
                log.info("job cancelled", **logged)
                ended = Ended("cancelled", failure)
            case Abandon():
                return _lost_claim()
        return ended if held else _lost_claim()

    def rejected(self, opened: OpenCall, record: CallRecord, rejected: Rejected) -> Ended:
        """Decide what follows a reply that nothing within the attempt can mend."""
        facts = CallFacts("transient" if rejected.retryable else "terminal")
        return self.after_failure(opened, record, rejected.failure, facts)

    def surprise(self, opened: OpenCall, record: CallRecord, error: Exception) -> Ended:
        """Whatever was not foreseen ends the attempt, not the job's chance to be looked after."""
        # Only the place: the message of an unknown exception may quote an input.
        place = extract_tb(error.__traceback__)[-1]
        summary = f"unforeseen {type(error).__name__}"
        log.error(summary, file=place.filename, line=place.lineno)
        failure = Failure("internal_error", summary, f"{summary}: {error}")
        return self.after_failure(opened, record, failure, CallFacts("transient"))

    def _write(self, statement: Callable[[Connection], T]) -> T:
        return self._run(statement, autocommit)

    def _write_all(self, statements: Callable[[Connection], T]) -> T:
        return self._run(statements, transaction)

    def _run(
        self,
        statements: Callable[[Connection], T],
        connected: Callable[[], AbstractContextManager[Connection]],
    ) -> T:
        def write() -> T:
            with connected() as connection:
                return statements(connection)

        return persistently(write, self._holdings.ending)

    def pause_everything(self, reason: str, failure: Failure) -> None:
        """Stop starting jobs until a person acts."""
        message = storable(f"{reason}: {failure.message or failure.summary}")
        first = self._write(lambda c: control.pause(c, "all", "", reason=message, by="claude-jobs"))
        if first:
            log.critical(
                "EVERYTHING IS PAUSED: raise the limit, then run `claude-jobs resume`",
                reason=reason,
                request_id=failure.request_id,
            )


def _over_budget(beyond: str, failure: Failure) -> Failure:
    message = f"{beyond}; the last call: {failure.message or failure.summary}"
    return replace(failure, type="budget_spent", summary=beyond, message=message)


def _budget(opened: OpenCall, *, spent: bool) -> Budget:
    claim = opened.claim
    return Budget(
        attempt=claim.attempt,
        max_attempts=claim.max_attempts,
        seconds_left=opened.seconds_left(),
        spent=spent,
    )


def _lost_claim() -> Ended:
    log.warning("claim lost: another worker has the job, nothing was written")
    return NOT_OURS
