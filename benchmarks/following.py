"""Readers of streams: how soon each has the first piece of its text."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import text

from benchmarks.measure import percentile
from sandbox.claude.client import SimulatedClaude
from worker.engine.events import Delta
from worker.engine.following import afollow
from worker.storage.engine import transaction

_IDS = text("SELECT id FROM jobs")

_REQUESTS = text("SELECT job_id, request_id FROM usage WHERE call = 1 AND attempt = 1")


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


def delays(heard: Mapping[UUID, float], claude: SimulatedClaude) -> list[float]:
    """From the moment at which Claude sent a job's first text to its reader having it (ms)."""
    with transaction() as connection:
        requests = {row.job_id: row.request_id for row in connection.execute(_REQUESTS)}
    jobs = heard.keys() & requests.keys()
    return after_first_text({requests[job]: heard[job] for job in jobs}, claude)


def after_first_text(heard: Mapping[str, float], claude: SimulatedClaude) -> list[float]:
    """The same by the ids of requests."""
    sent = {entry.request_id: entry.first_text_at for entry in claude.ledger()}
    return [(at - began) * 1000 for request, at in heard.items() if (began := sent[request])]


def summary(delays: Sequence[float], name: str) -> dict[str, float]:
    """What is published of such delays."""
    return {
        f"{name}_p50_ms": percentile(delays, 0.50),
        f"{name}_p95_ms": percentile(delays, 0.95),
        f"{name}_p99_ms": percentile(delays, 0.99),
    }
