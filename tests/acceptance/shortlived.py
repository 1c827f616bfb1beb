"""`celery -A tests.acceptance.shortlived worker`: prefixes count as warm for three seconds."""

from __future__ import annotations

from functools import partial
from typing import Any

import worker.celery as root
from worker.celery import app
from worker.engine.warmgate import WarmGate

__all__ = ["app"]

short: Any = partial(WarmGate, lifetimes={"5m": 3.0})
root.WarmGate = short
