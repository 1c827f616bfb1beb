"""Settling through an outage: a reply that has been paid for is not thrown away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from worker.errors import StorageUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0

#: Classes of SQLSTATE that pass: connection lost, transaction ended by the server, out of disk or
#: memory, lock not available, server shutting down, system error.
_PASSING = {"08", "25", "40", "53", "55", "57", "58"}


def persistently(write: Callable[[], T], giving_up: threading.Event) -> T:
    """Run `write` – a transaction of its own – until Postgres takes it or `giving_up` is set.

    Only for writes that are fenced on a claim: should the first try have been committed without
    our hearing of it, the second finds the claim gone and changes nothing.

    Raises:
        StorageUnavailable, sqlalchemy.exc.SQLAlchemyError: as the last try did.
    """
    pause, waited = _FIRST_PAUSE, False
    while True:
        try:
            result = write()
        except (StorageUnavailable, PoolTimeout, DBAPIError) as error:
            if not _passes(error) or giving_up.wait(pause):
                raise
            if not waited:
                log.warning("Postgres unreachable: the outcome is kept until it is back")
            waited, pause = True, min(pause * 2, _LONGEST_PAUSE)
        else:
            if waited:
                log.info("Postgres is back: the outcome is settled")
            return result


def _passes(error: Exception) -> bool:
    """Whether the same write can succeed later."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return True
    return str(getattr(error.orig, "sqlstate", None))[:2] in _PASSING
