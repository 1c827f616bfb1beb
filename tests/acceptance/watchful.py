"""`celery -A tests.acceptance.watchful worker`: the worker in a hurry, also to look at calls."""

from __future__ import annotations

from tests.acceptance.quick import app
from worker.engine import alerts

__all__ = ["app"]

alerts._INTERVAL, alerts._SOON = 0.2, 0.1
