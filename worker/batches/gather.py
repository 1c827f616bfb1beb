"""When jobs of the batch lane are gathered: once enough of them wait, or one has waited enough."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping

import structlog
from sqlalchemy import Connection

from worker.batches.paying import LaneBudgets
from worker.batches.round import NewRound, safe_seconds
from worker.engine.registry import Registry
from worker.settings import Settings
from worker.storage import batch_gathering, batch_members, batches, control
from worker.storage.batch_gathering import Kind, Waiting
from worker.storage.engine import transaction

log = structlog.get_logger(__name__)

#: For a task that this process does not know: its jobs fail when they are gathered.
_UNKNOWN_SECONDS = 86_400.0


class Gatherer:
    """Gathers jobs by model; in the whole fleet one process at a time."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        models: Mapping[str, str],
        new_round: NewRound,
        budgets: LaneBudgets,
    ) -> None:
        self._settings = settings
        self._seconds = {name: task.deadline for name, task in registry.items()}
        self._models = models
        self._new_round = new_round
        self._budgets = budgets

    def gather(self, stopping: threading.Event) -> None:
        """Gather and submit what is due; returns at once when that is nothing."""
        with transaction() as connection:
            if not batches.may_gather(connection):
                return
            self._tidy(connection)
            due = self._due(connection)
            if not due:
                return
            round_ = self._new_round()
            for model in {self._model(kind) for kind in due}:
                round_.begin(connection, model)
        kinds = {kind: self._seconds.get(kind.task, _UNKNOWN_SECONDS) for kind in due}
        round_.run(kinds, stopping)

    def _tidy(self, connection: Connection) -> None:
        """See to the jobs that must not wait any longer, and to those that nobody wants."""
        safe = safe_seconds(self._settings)
        if moved := batch_gathering.leave_lane(connection, safe=safe):
            log.info("jobs leave the batch lane: too little time for a batch", jobs=moved)
        batch_members.end_cancelled(connection)

    def _due(self, connection: Connection) -> list[Kind]:
        paused = {(row["scope"], row["name"]) for row in control.pauses(connection)}
        if ("all", "") in paused:
            return []
        self._budgets.look(connection)
        by_model: dict[str, list[Waiting]] = defaultdict(list)
        for waiting in batch_gathering.waiting(
            connection, self._settings.batch_max_requests, not_of=self._budgets.users
        ):
            if self._budgets.hold(waiting.kind):
                continue
            model = self._model(waiting.kind)
            if paused.isdisjoint({("task", waiting.kind.task), ("model", model)}):
                by_model[model].append(waiting)
        due: list[Kind] = []
        for found in by_model.values():
            jobs = sum(each.jobs for each in found)
            full = jobs >= self._settings.batch_max_requests
            oldest = max(each.oldest for each in found)
            late = oldest >= self._settings.batch_wait_minutes * 60
            if full or late:
                due += [each.kind for each in found]
        return due

    def _model(self, kind: Kind) -> str:
        return kind.model or self._models.get(kind.task, "")
