"""What a worker runs besides tasks, as Celery boot steps."""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals

from worker.engine.relay import Relay
from worker.settings import get_settings
from worker.transport.publish import publisher


class RelayStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """The relay starts with the pool and ends as soon as the worker begins to shut down."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._relay = Relay(get_settings(), publisher(parent.app))

    def start(self, parent: Any) -> None:
        signals.worker_shutting_down.connect(self._end, weak=False)
        self._relay.start()

    def stop(self, parent: Any) -> None:
        self._relay.stop()

    terminate = stop

    def _end(self, **_: Any) -> None:
        self._relay.stop(timeout=0)
