"""`celery -A tests.acceptance.sharing worker`: tasks that cache in different ways, in a hurry.

`classify_ticket` keeps results to their users, `extract_entities` caches nothing.
"""

from __future__ import annotations

from worker.celery import app, registry
from worker.engine import policy

__all__ = ["app"]

# Frozen dataclasses, so that nobody does this by mistake.
for _task in registry.values():
    object.__setattr__(_task, "backoff", policy.Backoff(base=0.05, cap=0.2))
object.__setattr__(registry["classify_ticket"], "cache_per_user", True)
object.__setattr__(registry["extract_entities"], "cache_seconds", 0)
