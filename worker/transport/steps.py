"""What a worker runs besides tasks, as a Celery boot step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from celery import bootsteps, signals

from worker.batches.loop import BatchLoop
from worker.engine.alerts import AlertLoop
from worker.engine.announcer import Announcer
from worker.engine.followers import FollowerLoop, Told
from worker.engine.holdings import Holdings
from worker.engine.job_webhooks import WebhookLoop
from worker.engine.leases import LeaseLoop
from worker.engine.loops import Loop
from worker.engine.maintenance import MaintenanceLoop
from worker.engine.relay import Relay
from worker.engine.releasewatch import ReleaseWatcher
from worker.engine.serving import ServingLoop
from worker.engine.spendingloop import SpendingLoop
from worker.engine.webhook import DeliveryLoop
from worker.settings import Settings
from worker.storage.engine import transaction
from worker.storage.leases import remove_worker

log = structlog.get_logger(__name__)


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Relay, leases, maintenance and alerts start with the pool.

    On SIGTERM the worker stops dispatching and claiming, lets running calls finish for a grace
    period, and cuts off the rest: their jobs go back to the queue and cost no attempt.
    """

    requires = ("celery.worker.components:Pool",)

    #: Set by the composition root before the worker starts.
    build: Callable[[Any], Engine]

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._engine: Engine | None = None

    def start(self, parent: Any) -> None:
        self._engine = type(self).build(parent)
        self._engine.report_followers(lambda ids, succeeded: _report(parent, ids, succeeded))
        signals.worker_shutting_down.connect(self._engine.drain, weak=False)
        self._engine.start()

    def stop(self, parent: Any) -> None:
        if self._engine is not None:
            self._engine.stop()

    terminate = stop


def _report(parent: Any, ids: Sequence[UUID], succeeded: bool) -> None:
    """Tell Flower of jobs that ended without a message of their own being on its way."""
    dispatcher = getattr(parent.consumer, "event_dispatcher", None)
    if dispatcher is None:
        return
    for job_id in ids:
        if succeeded:
            dispatcher.send("task-succeeded", uuid=str(job_id), result="None", runtime=0.0)
        else:
            dispatcher.send("task-failed", uuid=str(job_id), exception="of an identical request")


class Engine:
    """The loops of a worker process and the claims that they look after."""

    def __init__(
        self,
        settings: Settings,
        holdings: Holdings,
        relay: Relay,
        serving: ServingLoop,
        watcher: ReleaseWatcher,
        announcer: Announcer,
        followers: FollowerLoop,
        spending: SpendingLoop,
        batches: BatchLoop,
        *,
        worker: str,
        slots: int,
        output_bounds: Mapping[str, int],
    ) -> None:
        self._settings = settings
        self._holdings = holdings
        self._relay = relay
        self._serving = serving
        self._worker = worker
        self._leases = LeaseLoop(settings, holdings, worker, slots)
        self._maintenance = MaintenanceLoop(settings, holdings, slots)
        self._announcer = announcer
        self._followers = followers
        self._batches = batches
        self._aside: list[Loop] = [
            AlertLoop(output_bounds, watcher),
            WebhookLoop(settings),
            spending,
        ]
        if url := settings.alert_webhook_url:
            self._aside.append(DeliveryLoop(url.get_secret_value()))

    def report_followers(self, told: Told) -> None:
        """Have it told which jobs ended with another one's outcome."""
        self._followers.told = told

    def start(self) -> None:
        """Start all loops."""
        self._leases.start()
        self._maintenance.start()
        self._serving.start()
        self._relay.start()
        self._announcer.start()
        self._followers.start()
        self._batches.start()
        for loop in self._aside:
            loop.start()

    def drain(self, **_: Any) -> None:
        """Take no more work; cut off what still runs when the grace period is over."""
        if self._holdings.draining.is_set():
            return
        self._holdings.draining.set()
        self._relay.stop(timeout=0)
        self._maintenance.stop(timeout=0)
        self._batches.stop(timeout=0)
        for loop in self._aside:
            # Not waited for, here or at the end: what they have not committed is done elsewhere.
            loop.stop(timeout=0)
        grace = self._settings.shutdown_grace_seconds
        log.info("shutting down", running=len(self._holdings.claims()), grace_seconds=grace)
        timer = threading.Timer(grace, self._cut_off)
        timer.daemon = True
        timer.start()

    def stop(self) -> None:
        """End the loops; called when no task runs any more."""
        self._relay.stop()
        self._serving.stop()
        self._maintenance.stop()
        self._batches.stop()
        self._leases.stop()
        self._announcer.stop()
        self._followers.stop()
        for loop in self._aside:
            loop.stop(timeout=0)
        with transaction() as connection:
            remove_worker(connection, self._worker)

    def _cut_off(self) -> None:
        if claims := self._holdings.claims():
            log.warning("grace period over: calls are cut off", calls=len(claims))
        self._holdings.ending.set()
        self._holdings.abort_all("shutdown")
