"""Twenty workers' maintenance at the same time, and what settling outlasts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sandbox.stack import Stack
from worker.engine.patience import persistently
from worker.storage import rescue
from worker.storage.engine import build_engine, transaction

WORKERS = 20


@pytest.fixture
def engine(stack: Stack, environment: dict[str, str]) -> Iterator[Engine]:
    """A fresh database with a connection for each worker."""
    built = build_engine(environment["DATABASE_URL"], pool_size=WORKERS)
    yield built
    built.dispose()


def insert(engine: Engine, number: int, columns: str, values: str) -> None:
    statement = f"""INSERT INTO jobs (task, input, {columns})
                    SELECT 't', '{{}}', {values} FROM generate_series(1, :number)"""
    with transaction(engine) as connection:
        connection.execute(text(statement), {"number": number})


def by_all_workers(engine: Engine, step: Callable[[Connection], Any]) -> list[Any]:
    """What 20 workers get that run `step` at once, each until it has done nothing."""
    together = threading.Barrier(WORKERS)

    def worker(_: int) -> list[Any]:
        together.wait(timeout=30)
        done = []
        while True:
            with transaction(engine) as connection:
                result = step(connection)
            if not result:
                return done
            done.append(result)

    with ThreadPoolExecutor(WORKERS) as threads:
        return [result for done in threads.map(worker, range(WORKERS)) for result in done]


def test_a_job_is_rescued_by_one_worker(engine: Engine) -> None:
    columns = "state, attempt, claim_token, worker, lease_expires_at"
    values = "'running', 1, gen_random_uuid(), 'dead', now() - interval '1 minute'"
    insert(engine, 1000, columns, values)

    batches = by_all_workers(engine, lambda c: rescue.rescue_expired(c, grace=0, limit=7))

    times = Counter(job.id for batch in batches for job in batch)
    assert len(times) == 1000
    assert set(times.values()) == {1}
    with transaction(engine) as connection:
        rows = connection.execute(text("SELECT DISTINCT state, rescues, attempt FROM jobs")).all()
    assert [tuple(row) for row in rows] == [("queued", 1, 0)]


def test_a_lost_message_is_sent_again_by_one_worker(engine: Engine) -> None:
    insert(engine, 1000, "state, dispatched_at", "'dispatched', now() - interval '1 minute'")

    counts = by_all_workers(
        engine, lambda c: rescue.requeue_lost_messages(c, idle=True, patience=20, limit=7)
    )

    assert sum(counts) == 1000


def test_an_old_job_is_deleted_by_one_worker(engine: Engine) -> None:
    insert(engine, 1000, "state, finished_at", "'succeeded', now() - interval '2 days'")
    insert(engine, 10, "state, finished_at", "'succeeded', now()")

    counts = by_all_workers(
        engine, lambda c: rescue.prune(c, "succeeded", older_than=86400, limit=7)
    )

    assert sum(counts) == 1000
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 10


def test_an_outcome_is_kept_while_no_connection_is_free(environment: dict[str, str]) -> None:
    engine = build_engine(
        environment["DATABASE_URL"], pool_size=1, max_overflow=0, pool_timeout=0.1
    )
    tries = []

    def write() -> str:
        tries.append(1)
        with transaction(engine):
            return "settled"

    with ThreadPoolExecutor(1) as threads:
        with transaction(engine), pytest.raises(PoolTimeout), transaction(engine):
            pass
        with transaction(engine):
            settling = threads.submit(persistently, write, threading.Event())
            while not tries or settling.done():
                assert not settling.done(), settling.exception()
                threading.Event().wait(0.01)
            threading.Event().wait(0.3)
            assert not settling.done(), settling.exception()
        assert settling.result(timeout=20) == "settled"
    engine.dispose()
