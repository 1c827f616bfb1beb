"""One round of gathering: claimed jobs become requests, batch by batch, until none are left.

As in an attempt, a job is claimed and its call opened in one transaction, and its input is looked
at after that. What dies in between leaves batches that were never sent: their members go back.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from uuid import UUID, uuid4

import structlog
from sqlalchemy import Connection

from worker.batches.draft import Draft, as_parameters
from worker.batches.paying import LaneBudgets, Ready
from worker.batches.sharing import LaneSharing
from worker.batches.submit import Submitter, submission_seconds
from worker.engine.budget import Spent
from worker.engine.choose import Choice, Chooser, UnfitRelease, Unrunnable
from worker.engine.prepare import Preparer
from worker.engine.settling import OpenCall, Settler
from worker.settings import Settings
from worker.storage import batch_gathering, batch_holding, batches, settle
from worker.storage.batch_gathering import Kind
from worker.storage.claim import Claim, FirstCall
from worker.storage.engine import transaction

log = structlog.get_logger(__name__)

#: Jobs per transaction; so many inputs are in memory beside the batch.
_CHUNK = 50
#: A job whose released version does not run here: perhaps another worker is newer.
_UNFIT_SECONDS = 60.0
#: One that was claimed just before it was paused.
_PAUSED_SECONDS = 1.0
#: A batch may take so many hours (Anthropic's documentation of Message Batches).
_BATCH_HOURS = 24.0


def safe_seconds(settings: Settings) -> float:
    """A deadline that is nearer leaves no time for a batch.

    Half way between the hours that one takes and those that a deadline must leave to choose it, so
    that a job may wait a while.
    """
    return 3600 * (_BATCH_HOURS + settings.batch_deadline_hours) / 2


class Round:
    """The batches of one round. They have one keeper, who alone may send them."""

    def __init__(
        self,
        settings: Settings,
        chooser: Chooser,
        preparer: Preparer,
        settler: Settler,
        submitter: Submitter,
        budgets: LaneBudgets,
        sharing: LaneSharing,
    ) -> None:
        self._settings = settings
        self._chooser = chooser
        self._preparer = preparer
        self._settler = settler
        self._submitter = submitter
        self._safe = safe_seconds(settings)
        self._budgets = budgets
        self._sharing = sharing
        self._keeper = uuid4()
        # Longer than it takes to send another batch of the round first.
        self._lease = 2 * max(settings.lease_seconds, submission_seconds(settings))
        #: By model, those that have room; and those that have none, to be submitted next.
        self._drafts: dict[str, Draft] = {}
        self._full: list[Draft] = []

    def begin(self, connection: Connection, model: str) -> None:
        """Open a batch for a model, in the transaction that decides to gather."""
        batch_id = batches.begin(connection, model, self._keeper, self._lease)
        self._drafts[model] = Draft(batch_id, model, self._keeper)

    def run(self, kinds: Mapping[Kind, float], stopping: threading.Event) -> None:
        """Gather all due jobs of these kinds, each with the seconds of its task, and submit."""
        while not stopping.is_set():
            opened = self._open(
                {kind: each for kind, each in kinds.items() if not self._budgets.hold(kind)}
            )
            if opened is None:
                break
            ready = [ready for each in opened if (ready := self._prepare(*each)) is not None]
            for member in self._pay(self._sharing.join(ready)):
                self._add(member)
            while self._full:
                self._submitter.submit(self._full.pop())
        for draft in self._drafts.values():
            if draft.requests and not stopping.is_set():
                self._submitter.submit(draft)
            else:
                self._submitter.withdraw(draft)

    def _open(self, kinds: Mapping[Kind, float]) -> list[tuple[UUID, OpenCall]] | None:
        """Claim some jobs and open their calls, each in a batch; None when none are left."""
        members: dict[str, list[tuple[Claim, Choice]]] = defaultdict(list)
        opened: list[tuple[UUID, OpenCall]] = []
        with transaction() as connection:
            if not self._is_ours(connection):
                return None
            claims = batch_gathering.take(
                connection, kinds, safe=self._safe, limit=_CHUNK, not_of=self._budgets.users
            )
            for claim in claims:
                if (choice := self._choose(connection, claim)) is not None:
                    members[choice.model].append((claim, choice))
            for model, chosen in members.items():
                if model not in self._drafts:
                    self.begin(connection, model)
                batch_id = self._drafts[model].id
                calls = [(claim, self._first_call(choice)) for claim, choice in chosen]
                usage_ids = batch_gathering.join(connection, batch_id, calls)
                for claim, choice in chosen:
                    usage_id, spent = usage_ids[claim.id], Spent.before(claim)
                    call = OpenCall(claim, choice, usage_id, spent, source="batch")
                    opened.append((batch_id, call))
        return opened if claims else None

    def _is_ours(self, connection: Connection) -> bool:
        """Whether the lease has held; it is renewed."""
        ids = [draft.id for draft in self._drafts.values()]
        if len(batches.keep(connection, ids, self._keeper, self._lease)) == len(ids):
            return True
        log.warning("batches lost while they were gathered: this process was silent too long")
        self._drafts.clear()
        return False

    def _choose(self, connection: Connection, claim: Claim) -> Choice | None:
        try:
            choice = self._chooser.choose(connection, claim)
        except Unrunnable as error:
            failure = error.failure
            settle.fail(connection, claim, None, None, error=failure.as_json(claim.attempt))
            with _bound(claim):
                log.error("job failed", error=failure.type, summary=failure.summary)
            return None
        except UnfitRelease:
            batch_gathering.put_back(connection, claim, _UNFIT_SECONDS)
            return None
        if claim.is_paused(choice.model):
            batch_gathering.put_back(connection, claim, _PAUSED_SECONDS)
            return None
        return choice

    def _prepare(self, batch_id: UUID, opened: OpenCall) -> Ready | None:
        try:
            return Ready(batch_id, opened, self._preparer.prepare(opened.claim, opened.choice))
        except Unrunnable as error:
            with _bound(opened.claim):
                self._settler.unrunnable(opened, error.failure)
            return None

    def _pay(self, ready: list[Ready]) -> list[Ready]:
        """Reserve what they will cost; what no budget has room for goes back, and waits."""
        refused = self._budgets.reserve(ready)
        paid = [each for each in ready if each.opened.usage_id not in refused]
        with transaction() as connection:
            for each in ready:
                if (refusal := refused.get(each.opened.usage_id)) is None:
                    continue
                claim = each.opened.claim
                after = 0.0 if refusal.holds else refusal.wait
                error = refusal.failure.as_json(claim.attempt)
                batch_holding.hold(connection, claim, after=after, error=error)
                settle.withdraw_call(connection, each.opened.usage_id)
            batch_gathering.set_deadlines(connection, [each.opened.claim for each in paid])
        if refused:
            for each in ready:
                if each.opened.usage_id in refused:
                    self._sharing.release(each.opened)
            log.info("jobs of the batch lane are held by a budget", jobs=len(refused))
        return paid

    def _add(self, ready: Ready) -> None:
        """Put the request of a call into the batch of its model that has room."""
        batch_id, opened, prepared = ready
        parameters = as_parameters(prepared.request.parameters())
        model, settings = opened.choice.model, self._settings
        draft = self._drafts[model]
        if not draft.has_room_for(
            parameters, most=settings.batch_max_requests, most_bytes=settings.batch_max_bytes
        ):
            self._full.append(draft)
            with transaction() as connection:
                self.begin(connection, model)
            draft = self._drafts[model]
        if draft.id != batch_id:
            with transaction() as connection:
                batch_gathering.move(connection, opened.claim, opened.usage_id, draft.id)
        draft.add(opened.usage_id, parameters)

    def _first_call(self, choice: Choice) -> FirstCall:
        return FirstCall(
            call_model=choice.model,
            prompt=choice.prompt.name,
            call_version=choice.prompt.version,
            prompt_sha256=choice.prompt.sha256,
            variant=choice.variant,
            schema_sha256=self._preparer.schemas[choice.task.name].sha256,
        )


#: What makes a round; the arguments are those of `Round`, bound.
NewRound = Callable[[], Round]


def _bound(claim: Claim) -> AbstractContextManager[None]:
    return structlog.contextvars.bound_contextvars(job=str(claim.id), task=claim.task)
