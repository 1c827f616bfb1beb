"""The loop of the batch lane, in every worker, and how it is put together."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from uuid import UUID

from worker.batches.followups import FollowUps
from worker.batches.gather import Gatherer
from worker.batches.ingest import Ingester
from worker.batches.keeper import Keeper, poll_pause
from worker.batches.paying import LaneBudgets
from worker.batches.reconcile import Reconciler
from worker.batches.returning import Returner
from worker.batches.round import Round
from worker.batches.sharing import LaneSharing
from worker.batches.submit import Submitter
from worker.claude.batches import BatchClient
from worker.claude.clients import ClientStack
from worker.claude.inflight import Watchdog
from worker.engine.attempt import Attempts
from worker.engine.catalog import Catalog
from worker.engine.choose import Chooser
from worker.engine.gate import Gate
from worker.engine.holdings import Holdings
from worker.engine.loops import Loop
from worker.engine.prepare import Preparer
from worker.engine.registry import Registry
from worker.engine.settling import Settler
from worker.engine.sharing import Sharing
from worker.engine.spending import Spending
from worker.settings import Settings

#: Seconds between two looks.
_INTERVAL = 2.0


class BatchLoop(Loop):
    """Gathers batches and looks after them, until the worker drains."""

    name = "batches"

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        models: Mapping[str, str],
        catalog: Catalog,
        chooser: Chooser,
        preparer: Preparer,
        clients: ClientStack,
        watchdog: Watchdog,
        attempts: Attempts,
        holdings: Holdings,
        worker: str,
        ended: Callable[[UUID], None],
        spending: Spending,
        gate: Gate,
        sharing: Sharing,
    ) -> None:
        super().__init__()
        client, settler = BatchClient(clients, watchdog), Settler(holdings)
        self._interval = min(_INTERVAL, settings.batch_poll_seconds)
        self._follow_ups = FollowUps(settings, attempts, holdings, worker, ended)
        submitter = Submitter(
            settings, client, settler, holdings, lambda: poll_pause(settings, None)
        )
        budgets = LaneBudgets(spending, gate, models)
        self._gatherer = Gatherer(
            settings,
            registry,
            models,
            lambda: Round(
                settings,
                chooser,
                preparer,
                settler,
                submitter,
                budgets,
                LaneSharing(sharing, ended),
            ),
            budgets,
        )
        ingester = Ingester(
            registry,
            catalog,
            preparer,
            settler,
            Returner(holdings),
            client,
            self._follow_ups,
            ended,
            gate,
            sharing,
        )
        self._keeper = Keeper(
            settings, client, Reconciler(settings, client), ingester, self.stopping
        )

    def stop(self, timeout: float = 5.0) -> None:
        super().stop(timeout)
        if timeout:
            self._follow_ups.close(timeout)

    def step(self) -> float:
        while not self.stopping.is_set() and self._keeper.look():
            pass
        self._gatherer.gather(self.stopping)
        return self._interval * random.uniform(0.7, 1.3)  # noqa: S311 – spreads the workers
