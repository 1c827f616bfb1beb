"""Money before the call: what it is expected to cost is reserved, or the job is put back.

With no budget that concerns a call this is a look at an empty set. Otherwise the threads of a
process ask together: whoever comes first asks Postgres for all who have come until it is its turn.
So a process holds one connection for this, however many calls it makes, and the fleet's processes
wait for each other once a round trip, not once a call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from typing import NamedTuple

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from worker.claude.pricing import cost_usd
from worker.claude.reply import Tokens
from worker.engine.gate import NotSent
from worker.errors import Failure, StorageUnavailable
from worker.limits.types import Cost
from worker.storage import spending
from worker.storage.claim import Claim
from worker.storage.engine import autocommit
from worker.storage.spending import Kind, Purchase, Refusal, dollars, undated

log = structlog.get_logger(__name__)

#: A job that was claimed before its budget was used up; the relay holds it from then on (seconds).
_HELD_SECONDS = 1.0
#: One that needs more than is left while others still fit: it is tried again so often.
_TOO_DEAR_SECONDS = 60.0
#: One whose reservation Postgres did not take.
_AGAIN_SECONDS = 1.0


class BudgetExhausted(NotSent):
    """A hard budget has no room for the call: its job is held, whatever it has tried so far."""

    held = True

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(_HELD_SECONDS if refusal.holds else _TOO_DEAR_SECONDS, exhausted(refusal))
        #: Nor has it for any usual one.
        self.holds = refusal.holds


class LedgerUnavailable(NotSent):
    """Nothing could be reserved: Postgres did not answer."""

    failure = Failure("no_reservation", "what the call may cost could not be reserved")


def exhausted(refusal: Refusal) -> Failure:
    """What is said of a job that a budget holds: which one, and until when."""
    what = "is used up" if refusal.holds else "has too little left for this call"
    return Failure(
        "budget_exhausted",
        f"the budget {refusal.budget} of ${dollars(refusal.amount_usd)} {what} until "
        f"{refusal.ends_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, or until it is raised",
    )


def expected_usd(model: str, expected: Cost, *, batch: bool = False) -> Decimal:
    """What a call of so many tokens costs; 0 for a model without a known price.

    Such calls pass every budget unseen: the alert `unpriced_model` says so.
    """
    tokens = Tokens(input=round(expected.input), output=round(expected.output))
    return cost_usd(model, tokens, batch=batch) or Decimal(0)


@dataclass(slots=True, eq=False)
class _Asked:
    purchase: Purchase
    answered: bool = False
    refusal: Refusal | None = None
    error: Exception | None = None


class Spending:
    """Reserves for one process; safe to use from any number of threads."""

    def __init__(self) -> None:
        self._kinds: frozenset[Kind] = frozenset()
        self._version = (0, 0)
        self._hearing = threading.Lock()
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._asked: list[_Asked] = []
        self._ended: list[int] = []

    def keep_up(self, connection: Connection) -> bool:
        """Hear of budgets that were set or removed; returns whether there are any."""
        with self._hearing:  # one after the other, so that no late look brings back an older state
            version = spending.version(connection)
            if version != self._version:
                self._kinds = spending.kinds(connection)
                self._version = version
        return bool(self._kinds)

    def catch_up(self, newest: int) -> None:
        """Hear of the budget of that number, which a claim has brought, unless it is known.

        Raises:
            LedgerUnavailable: Postgres did not answer.
        """
        if newest <= self._version[0]:
            return
        try:
            with autocommit() as connection:
                self.keep_up(connection)
        except (SQLAlchemyError, StorageUnavailable) as error:
            raise LedgerUnavailable(_AGAIN_SECONDS) from error

    def concerns(self, task: str, user_id: str | None, model: str, lane: str) -> bool:
        """Whether any budget has a say in such a call."""
        kinds = self._kinds
        if not kinds:
            return False
        names = {"all": "", "task": task, "model": undated(model), "user": user_id}
        return any(
            Kind(scope, each, of_lane) in kinds
            for scope, name in names.items()
            if name is not None
            for each in (name, "*")
            for of_lane in (None, lane)
        )

    @contextmanager
    def purse(self, claim: Claim) -> Iterator[Purse]:
        """Pays for the calls of an attempt; at its end, what they did cost is known."""
        purse = Purse(self, claim)
        try:
            yield purse
        finally:
            if purse.paid:
                with self._lock:
                    self._ended += purse.paid

    def reserve(self, purchase: Purchase) -> None:
        """Reserve for one call, together with whoever else is asking.

        Raises:
            BudgetExhausted: a hard budget has no room for it.
            LedgerUnavailable: Postgres did not answer.
        """
        asked = _Asked(purchase)
        with self._lock:
            self._asked.append(asked)
        with self._turn:
            if not asked.answered:
                self._ask()
        if asked.error is not None:
            raise LedgerUnavailable(_AGAIN_SECONDS) from asked.error
        if asked.refusal is not None:
            raise BudgetExhausted(asked.refusal)

    def reserve_batch(
        self, connection: Connection, requests: Sequence[BatchRequest]
    ) -> dict[int, BudgetExhausted]:
        """Reserve for requests of a Message Batch, at half price, in `connection`'s transaction.

        They are tried in their order. What is returned, by usage row, may not be sent, each for its
        reason; the rest fits. Nobody else reserves until the transaction ends, so it is to be
        short: a thousand requests at a time, not a hundred thousand.
        """
        self.keep_up(connection)
        wanted = [
            Purchase(
                each.usage_id,
                each.task,
                each.user_id,
                each.model,
                "batch",
                expected_usd(each.model, each.expected, batch=True),
            )
            for each in requests
            if self.concerns(each.task, each.user_id, each.model, "batch")
        ]
        refused = spending.reserve(connection, wanted) if wanted else {}
        return {usage_id: BudgetExhausted(refusal) for usage_id, refusal in refused.items()}

    def book(self) -> None:
        """Put what calls of this process did cost in the place of what was reserved for them."""
        with self._turn:
            if ended := self._take_ended():
                with autocommit() as connection:
                    spending.book(connection, ended)

    def _take_ended(self) -> list[int]:
        with self._lock:
            ended, self._ended = self._ended, []
        return ended

    def _ask(self) -> None:
        with self._lock:
            asked, self._asked = self._asked, []
        ended = self._take_ended()
        try:
            with autocommit() as connection:
                refused = spending.reserve(connection, [each.purchase for each in asked], ended)
        except Exception as error:  # whatever it is: nobody who asked may take it for a yes
            # What has ended is found by the loop that looks at everything.
            log.warning("nothing could be reserved", calls=len(asked), reason=type(error).__name__)
            for each in asked:
                each.error, each.answered = error, True
            return
        for each in asked:
            each.refusal, each.answered = refused.get(each.purchase.usage_id), True


class Purse:
    """Pays for the calls of one attempt. No budget is missed that was set before its claim."""

    def __init__(self, spending_: Spending, claim: Claim) -> None:
        self._spending = spending_
        self._claim = claim
        #: Usage rows of calls that were paid for.
        self.paid: list[int] = []

    def pay(self, usage_id: int, model: str, expected: Cost) -> None:
        """Reserve what a call is expected to cost, if any budget concerns it.

        Raises:
            BudgetExhausted, LedgerUnavailable: see `Spending.reserve`.
        """
        task, user_id = self._claim.task, self._claim.user_id
        self._spending.catch_up(self._claim.newest_budget)
        if not self._spending.concerns(task, user_id, model, "interactive"):
            return
        usd = expected_usd(model, expected)
        self._spending.reserve(Purchase(usage_id, task, user_id, model, "interactive", usd))
        self.paid.append(usage_id)


class BatchRequest(NamedTuple):
    """A request that may become part of a Message Batch, with the usage row opened for it."""

    usage_id: int
    task: str
    user_id: str | None
    model: str
    expected: Cost
