"""`celery -A tests.acceptance.frugal worker`: the worker with a task whose budget is one token."""

from __future__ import annotations

from worker.celery import app, registry

__all__ = ["app"]

# A frozen dataclass, so that nobody does this by mistake.
object.__setattr__(registry["classify_ticket"], "token_budget", 1)
