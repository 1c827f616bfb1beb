"""`celery -A tests.chaos.unpatched worker`: without the cure of `worker.transport.redis_patch`."""

from __future__ import annotations

from worker.transport import redis_patch

redis_patch.AFFECTED = set()

from worker.celery import app  # noqa: E402 – importing it applies the patch

__all__ = ["app"]
