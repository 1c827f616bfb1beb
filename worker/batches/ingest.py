"""The results of a batch, settled as they arrive.

Every reply is read, judged, priced and settled by the code that does so for interactive calls. What
was settled before is not open any more, and is passed over: so a worker that dies halfway, or two
that read the same results, settle each job once. Nothing but a chunk of lines is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from worker.batches.draft import usage_of
from worker.batches.followups import FollowUps
from worker.batches.returning import Returner
from worker.claude.batch_wire import BatchResult, parse_line
from worker.claude.batches import BatchClient
from worker.claude.failures import classify
from worker.claude.reply import MalformedReply, Reply, read_message
from worker.engine import followup
from worker.engine.budget import Spent
from worker.engine.catalog import Catalog
from worker.engine.choose import Choice, Unrunnable, unrunnable
from worker.engine.gate import Gate
from worker.engine.judge import Rejected, judge
from worker.engine.prepare import Preparer
from worker.engine.records import record_of
from worker.engine.registry import Registry
from worker.engine.serving import PINNED
from worker.engine.settling import Ended, OpenCall, Settler
from worker.engine.sharing import Sharing
from worker.errors import (
    ConfigurationError,
    Failure,
    StorageUnavailable,
    UnknownPromptVersion,
    UnknownTask,
)
from worker.storage import batch_members
from worker.storage.batch_members import Member
from worker.storage.batches import Kept
from worker.storage.engine import transaction
from worker.storage.models import TERMINAL_STATES
from worker.storage.settle import CallRecord

log = structlog.get_logger(__name__)

#: Lines per look into Postgres: their replies are in memory together.
_CHUNK = 50
#: What becomes of a request that was never carried out, for the usage row and the job.
_LEFT_UNDONE = {
    "expired": ("timeout", Failure("batch_expired", "the batch expired before its turn")),
    "canceled": ("interrupted", Failure("batch_canceled", "its batch was cancelled")),
}
_NOTHING = Decimal(0)


class Read(NamedTuple):
    """How many lines the results had, how many of them nobody could read, and how many were left.

    `left`: this code does not know their task or prompt version; another worker may.
    """

    lines: int
    broken: int
    left: int


class Ingester:
    """Settles the members of batches that have ended."""

    def __init__(
        self,
        registry: Registry,
        catalog: Catalog,
        preparer: Preparer,
        settler: Settler,
        returner: Returner,
        client: BatchClient,
        follow_ups: FollowUps,
        ended: Callable[[UUID], None],
        gate: Gate,
        sharing: Sharing,
    ) -> None:
        self._registry = registry
        self._catalog = catalog
        self._preparer = preparer
        self._settler = settler
        self._returner = returner
        self._client = client
        self._follow_ups = follow_ups
        self._ended = ended
        self._gate = gate
        self._sharing = sharing
        #: Members settled so far: whether there is any progress.
        self.settled = 0
        self._left = 0
        self._patient = True

    def ingest(self, batch: Kept, go_on: Callable[[], bool], *, patient: bool) -> Read | None:
        """Settle all results; None if `go_on`, which is asked now and then, said no.

        While `patient`, what this code cannot settle is left open, for a worker that can.

        Raises:
            CallFailed: they could not be read, or not to their end.
        """
        assert batch.anthropic_id is not None  # noqa: S101 – it has ended
        lines = broken = self._left = 0
        self._patient = patient
        with self._client.results(batch.anthropic_id) as incoming:
            while chunk := list(islice(incoming, _CHUNK)):
                if not go_on():
                    return None
                results = dict(_parsed(chunk, batch.id))
                lines += len(chunk)
                broken += len(chunk) - len(results)
                self._settle(batch, results)
        return Read(lines, broken, self._left)

    def settle_missing(self, batch: Kept) -> int:
        """Give back the members of which the results say nothing; returns how many those are."""
        failure = Failure("batch_result_missing", "the batch has no result for it")
        missing = 0
        while True:
            with transaction() as connection:
                left = batch_members.members(connection, batch.id, limit=_CHUNK)
            if not left:
                return missing
            missing += len(left)
            for member in left:
                ended = self._returner.give_back(member, CallRecord(outcome="lost"), failure)
                if member.leads is not None and member.claim is not None and ended is not None:
                    self._sharing.left(member.claim, member.leads, ended)

    def _settle(self, batch: Kept, results: Mapping[int, BatchResult]) -> None:
        with transaction() as connection:
            members = batch_members.members(connection, batch.id, list(results))
        for member in members:
            claim = member.claim
            bound = {} if claim is None else {"job": str(claim.id), "task": claim.task}
            with structlog.contextvars.bound_contextvars(batch=str(batch.id), **bound):
                try:
                    ended = self._settle_one(member, results[member.usage_id])
                except (DataError, IntegrityError):
                    log.exception("Postgres refuses what became of a member: it is left open")
                    continue
                if member.leads is not None and claim is not None and ended is not None:
                    self._sharing.left(claim, member.leads, ended)
            self.settled += 1
            if claim is not None and ended is not None and ended.state in TERMINAL_STATES:
                self._ended(claim.id)

    def _settle_one(self, member: Member, result: BatchResult) -> Ended | None:
        match result.kind:
            case "succeeded":
                assert result.message is not None  # noqa: S101 – see `parse_line`
                return self._succeeded(member, result.message)
            case "errored":
                return self._errored(member, result)
            case kind:
                outcome, failure = _LEFT_UNDONE[kind]
                # It was not carried out, and is not billed.
                record = CallRecord(outcome=outcome, cost_usd=_NOTHING, full_cost_usd=_NOTHING)
                return self._returner.give_back(member, record, failure)

    def _succeeded(self, member: Member, body: bytes) -> Ended | None:
        try:
            reply = read_message(body, headers={}, latency_ms=0)
        except MalformedReply as error:
            failed = classify(error)
            return self._returner.give_back(
                member, CallRecord(outcome=failed.outcome), failed.failure
            )
        if member.claim is None:
            self._returner.meter(member, record_of(reply, "interrupted", batch=True))
            return None
        try:
            opened = self._opened(member)
        except Unrunnable as error:
            if self._patient:
                self._left += 1
                return None
            record = record_of(reply, "invalid_output", batch=True)
            return self._returner.fail(member, record, error.failure)
        try:
            return self._judge(member, opened, reply)
        except (SQLAlchemyError, StorageUnavailable):
            raise  # the next look settles it
        except Exception as error:
            record = record_of(reply, "interrupted", batch=True)
            return self._settler.surprise(opened, record, error)

    def _judge(self, member: Member, opened: OpenCall, reply: Reply) -> Ended | None:
        task = opened.choice.task
        try:
            prepared = self._preparer.prepare(opened.claim, opened.choice)
            prompt = opened.choice.prompt
            self._gate.learn(prepared.request, f"{prompt.name}/{prompt.version}", reply)
            accepted = judge(reply, task.output, task.checks, prepared.input, task.warnings)
        except Unrunnable as error:  # it was not when the batch was sent
            record = record_of(reply, "invalid_output", batch=True)
            return self._returner.fail(member, record, error.failure)
        except Rejected as rejected:
            record = record_of(
                reply, rejected.outcome, failed_checks=rejected.failed_checks, batch=True
            )
            request = followup.mend(opened.after(record), prepared.request, reply, rejected)
            if request is None:
                return self._settler.rejected(opened, record, rejected)
            log.info("asking again", remedy=rejected.remedy, summary=rejected.failure.summary)
            after = opened.after(record, rejected.remedy)
            self._follow_ups.take_over(after, record, request, prepared)
            return None
        return self._settler.succeed(opened, reply, accepted)

    def _errored(self, member: Member, result: BatchResult) -> Ended | None:
        failed = result.failed
        assert failed is not None  # noqa: S101 – see `parse_line`
        record = CallRecord(outcome=failed.outcome, request_id=failed.failure.request_id)
        if failed.facts.kind == "terminal":
            return self._returner.fail(member, record, failed.failure)
        return self._returner.give_back(member, record, failed.failure)

    def _opened(self, member: Member) -> OpenCall:
        """The member as an attempt whose reply has arrived, with what it was sent with.

        Raises:
            Unrunnable: this code does not know its task or its prompt version any more.
        """
        claim, call = member.claim, member.call
        assert claim is not None  # noqa: S101
        try:
            task = self._registry[claim.task]
            with transaction() as connection:
                prompt = self._catalog.find(connection, task, call.call_version, call.prompt_sha256)
        except UnknownTask as error:
            raise unrunnable("unknown_task", error) from None
        except (UnknownPromptVersion, ConfigurationError) as error:
            raise unrunnable("unknown_prompt_version", error) from None
        choice = Choice(task, prompt, call.call_model, call.variant or PINNED)
        spent = Spent.before(claim)
        return OpenCall(claim, choice, member.usage_id, spent, member.leads, source="batch")


def _parsed(chunk: Iterable[bytes], batch_id: UUID) -> Iterator[tuple[int, BatchResult]]:
    for line in chunk:
        try:
            result = parse_line(line)
            usage_id = usage_of(result.custom_id, batch_id)
        except ValueError:
            usage_id = None
        if usage_id is None:
            log.warning("a line of a batch's results is not readable", batch=str(batch_id))
        else:
            yield usage_id, result
