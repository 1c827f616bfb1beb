"""Settling through an outage: a reply that has been paid for is not thrown away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from worker.errors import StorageUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


def persistently(write: Callable[[], T], giving_up: threading.Event) -> T:
    """Run `write` – a transaction of its own – until Postgres takes it or `giving_up` is set.

    Only for writes that are fenced on a claim: should the first try have been committed without
    our hearing of it, the second finds the claim gone and changes nothing.

    Raises:
        StorageUnavailable, sqlalchemy.exc.DBAPIError: as the last try did.
    """
    pause, waited = _FIRST_PAUSE, False
    while True:
        try:
            result = write()
        except (StorageUnavailable, DBAPIError) as error:
            lost_connection = isinstance(error, StorageUnavailable) or error.connection_invalidated
            if not lost_connection or giving_up.wait(pause):
                raise
            if not waited:
                log.warning("Postgres unreachable: the outcome is kept until it is back")
            waited, pause = True, min(pause * 2, _LONGEST_PAUSE)
        else:
            if waited:
                log.info("Postgres is back: the outcome is settled")
            return result
