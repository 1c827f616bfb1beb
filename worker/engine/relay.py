"""The relay: a loop in every worker that turns due rows into messages.

New jobs, scheduled jobs, retries and rescued jobs all take this one path. `LISTEN` wakes the
loop; a poll is the fallback, and finds what became due by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from worker.engine.dispatch import Capacity, Dispatcher, unlimited
from worker.engine.loops import Loop
from worker.settings import Settings
from worker.storage.dispatch import Dispatched, recall
from worker.storage.engine import transaction
from worker.storage.listener import Listener

log = structlog.get_logger(__name__)

CHANNEL = "claude_jobs_due"

#: Messages published per transaction: small, so that an urgent job waits for few others.
_BATCH = 100
#: The pause while there is no room, or a limit is used up: both change without anybody telling.
_SOON = 0.05
#: After looks in vain it doubles so often: a limit may stay closed for an hour.
_MOST_DOUBLINGS = 3
#: The pause after the broker failed.
_OUTAGE_PAUSE = 1.0

#: Publishes the messages in order; False when the broker failed, and any may have been lost.
Publish = Callable[[Sequence[Dispatched]], bool]


class Relay(Loop):
    """Dispatches due jobs until it is stopped; survives Postgres and the broker going away.

    `models` names the model that each task runs on; `capacity` says what the rate limits admit.
    """

    name = "relay"

    def __init__(
        self,
        settings: Settings,
        publish: Publish,
        models: Mapping[str, str] | None = None,
        capacity: Capacity = unlimited,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._publish = publish
        self._dispatcher = Dispatcher(settings, models or {}, capacity)
        self._listener = Listener(settings.database_url, CHANNEL, self.name)
        self._broker_down = False
        self._in_vain = 0

    def stop(self, timeout: float = 5.0) -> None:
        super().stop(timeout)
        if timeout:
            self._listener.close()

    def step(self) -> float:
        self._listener.connect()
        self._listener.wait(self.dispatch())
        return 0.0

    def dispatch(self) -> float:
        """Dispatch one batch; returns the seconds to wait before the next look, at most."""
        with transaction() as connection:
            batch = self._dispatcher.dispatch(connection, _BATCH)
        if not self._publish_all(batch.jobs):
            self.stopping.wait(_OUTAGE_PAUSE)
            return 0.0
        self._in_vain = 0 if batch.jobs else self._in_vain + 1
        match batch.look_again:
            case "now":
                return 0.0
            case "soon":
                pause = _SOON * float(2 ** min(self._in_vain, _MOST_DOUBLINGS))
                return min(pause, self._settings.poll_seconds)
            case "later":
                return self._settings.poll_seconds

    def _publish_all(self, jobs: Sequence[Dispatched]) -> bool:
        if not jobs:
            return True
        if self._publish(jobs):
            if self._broker_down:
                self._broker_down = False
                log.info("the broker is back")
            return True
        with transaction() as connection:
            recall(connection, [job.id for job in jobs])
        if not self._broker_down:
            self._broker_down = True
            log.error("broker unreachable: jobs wait in Postgres")
        return False
