"""Readers of streams: how soon each has the first piece of its text."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import text

from benchmarks.measure import percentile
from worker.engine.events import Delta
from worker.engine.following import afollow
from worker.storage.engine import transaction

_IDS = text("SELECT id FROM jobs")

# The row is completed right after the reply has ended, a few milliseconds at most: by so much the
# first token came before what this says.
_FIRST_TOKENS = text("""
SELECT job_id,
       extract(epoch FROM finished_at)::float + (first_token_ms - latency_ms) / 1000.0
FROM usage WHERE first_token_ms IS NOT NULL AND call = 1 AND attempt = 1
""")


def job_ids() -> set[UUID]:
    """Every job there is."""
    with transaction() as connection:
        return set(connection.execute(_IDS).scalars())


@contextmanager
def readers(jobs: Set[UUID]) -> Iterator[Mapping[UUID, float]]:
    """A reader for each job, all in one event loop as in the API; gives when each heard first."""
    heard: dict[UUID, float] = {}

    async def follow(job: UUID) -> None:
        async for event in afollow(job):
            if isinstance(event, Delta):
                heard.setdefault(job, time.time())

    async def follow_all() -> None:
        await asyncio.gather(*map(follow, jobs))

    thread = threading.Thread(target=asyncio.run, args=(follow_all(),))
    thread.start()
    yield heard
    thread.join(60)


def first_deltas(heard: Mapping[UUID, float]) -> dict[str, Any]:
    """From Claude's first token at the worker to the first text at the reader; nothing if none."""
    with transaction() as connection:
        began = {job: float(at) for job, at in connection.execute(_FIRST_TOKENS)}
    delays = [(heard[job] - began[job]) * 1000 for job in heard.keys() & began.keys()]
    if not delays:
        return {}
    return {
        "first_delta_p50_ms": percentile(delays, 0.50),
        "first_delta_p95_ms": percentile(delays, 0.95),
        "first_delta_p99_ms": percentile(delays, 0.99),
    }
