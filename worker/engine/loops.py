"""A loop in a thread: runs a step every so often, survives outages, and says when they begin."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.errors import StorageUnavailable

log = structlog.get_logger(__name__)

#: The pause after Postgres was not to be reached.
_OUTAGE_PAUSE = 1.0


class Loop(ABC):
    """Calls `step` until stopped. An outage of Postgres is logged once, when it begins."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._outage = False

    @abstractmethod
    def step(self) -> float:
        """Do what is to be done now; returns the seconds until the next step."""

    def start(self) -> None:
        """Start the loop in a thread of its own."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the loop, waiting up to `timeout` seconds for the step that is running."""
        self.stopping.set()
        if self._thread.is_alive() and timeout:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                pause = self.step()
            except (SQLAlchemyError, psycopg.Error, StorageUnavailable) as error:
                if not self._outage:
                    log.error("Postgres unreachable", loop=self.name, error=_first_line(error))
                self._outage = True
                pause = _OUTAGE_PAUSE
            except Exception:
                # Without this loop jobs are lost or late: whatever it is, say so and go on.
                log.exception("step failed", loop=self.name)
                pause = _OUTAGE_PAUSE
            else:
                if self._outage:
                    self._outage = False
                    log.info("Postgres is back", loop=self.name)
            self.stopping.wait(pause)


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
