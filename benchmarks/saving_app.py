"""`celery -A benchmarks.saving_app worker`: the worker in an hour that takes a minute.

What is said in the settings is set there. How long Claude keeps a prefix is no setting, since it is
not ours to choose: here the simulated Claude forgets sooner as well. The tasks' checks are off:
those it is compared with have none, and what the simulated Claude writes would fail some of them.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import worker.celery as root
from worker.celery import app, registry
from worker.engine.warmgate import LIFETIMES, WarmGate

__all__ = ["app"]

SPEED = float(os.environ["BENCHMARK_SPEED"])

_short: Any = partial(WarmGate, lifetimes={name: life / SPEED for name, life in LIFETIMES.items()})
root.WarmGate = _short

# Frozen dataclasses, so that nobody does this by mistake.
for _task in registry.values():
    object.__setattr__(_task, "checks", ())
