"""Budgets and the batch lane: money is reserved before a request may become part of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from worker.engine.gate import Gate
from worker.engine.holds import Holds
from worker.engine.prepare import Prepared
from worker.engine.settling import OpenCall
from worker.engine.spending import BatchRequest, BudgetExhausted, Spending
from worker.limits.types import Cost
from worker.storage import batch_holding
from worker.storage.batch_gathering import Kind
from worker.storage.engine import transaction

#: So much of what is expected is reserved. The requests of a batch are all judged by the same mean:
#: what it errs by does not cancel out, and none of them can be held once it is noticed.
_MARGIN = 1.1


class Ready(NamedTuple):
    """A claimed job with its open call, the batch that has it, and what it would be sent with."""

    batch_id: UUID
    opened: OpenCall
    prepared: Prepared


class LaneBudgets:
    """What hard budgets leave the lane; for the one thread that gathers.

    `models` is the model that each task runs on.
    """

    def __init__(self, spending: Spending, gate: Gate, models: Mapping[str, str]) -> None:
        self._spending = spending
        self._gate = gate
        self._models = models
        self._holds = Holds([])

    def look(self, connection: Connection) -> None:
        """See anew what they hold."""
        self._holds = Holds(batch_holding.rooms(connection))

    @property
    def users(self) -> list[str]:
        """Users whose jobs are held."""
        return self._holds.users

    def hold(self, kind: Kind) -> bool:
        """Whether all jobs of this kind are held."""
        return self._holds.hold(kind.task, kind.model or self._models.get(kind.task, ""))

    def reserve(self, calls: Sequence[Ready]) -> dict[int, BudgetExhausted]:
        """Reserve for these calls; returns, by usage row, those that no budget has room for."""
        wanted = [self._request(each.opened, each.prepared) for each in calls]
        if not wanted:
            return {}
        with transaction() as connection:
            refused = self._spending.reserve_batch(connection, wanted)
            if refused:
                self.look(connection)
        return refused

    def _request(self, opened: OpenCall, prepared: Prepared) -> BatchRequest:
        claim, prompt = opened.claim, opened.choice.prompt
        expected = self._gate.expected(prepared.request, f"{prompt.name}/{prompt.version}")
        most = Cost(expected.input * _MARGIN, expected.output * _MARGIN)
        return BatchRequest(opened.usage_id, claim.task, claim.user_id, opened.choice.model, most)
