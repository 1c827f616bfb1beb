"""Hearing from Postgres that jobs have ended, where many wait for them."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from worker.engine.completion import get_completions
from worker.engine.loops import Loop
from worker.settings import Settings
from worker.storage.finished import CHANNEL
from worker.storage.listener import Listener

_POLL = 1.0


class HearingLoop(Loop):
    """Passes on what is said on `job_finished`: whoever waits for such a job gets a look at once.

    It is a hint. What is not heard – Postgres was away, a worker was killed – is found by the looks
    that `Completions` takes anyway.
    """

    name = "hearing"

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._listener = Listener(settings.database_url, CHANNEL, self.name)

    def stop(self, timeout: float = 5.0) -> None:
        super().stop(timeout)
        if timeout:
            self._listener.close()

    def step(self) -> float:
        for said in self._listener.wait(_POLL):
            with suppress(ValueError):  # anybody may NOTIFY
                get_completions().heard(UUID(said))
        return 0.0
