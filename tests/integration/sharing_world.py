"""Jobs that make the same request, and the statements that they share it by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from tests.integration.steps import claim, enqueue, new_job, open_usage
from worker.storage import leaders, settle
from worker.storage.claim import Claim
from worker.storage.engine import autocommit, transaction
from worker.storage.leaders import Leader, Standing
from worker.storage.settle import CallRecord

KEY = "k" * 64


OTHER = "o" * 64


def start(engine: Engine, **options: Any) -> tuple[Claim, int]:
    """A job that has been claimed, with its usage row."""
    with transaction(engine) as connection:
        (job_id,) = enqueue(engine, new_job(**options))
        connection.execute(
            text("UPDATE jobs SET state = 'dispatched' WHERE id = :id"), {"id": job_id}
        )
    with transaction(engine) as connection:
        taken = claim(connection, job_id)
        assert taken is not None
        return taken, open_usage(connection, taken)


def enter(engine: Engine, taken: Claim, key: str = KEY, window: float = 600) -> Standing:
    with autocommit(engine) as connection:
        return leaders.enter(connection, taken, key, window)


def succeed(connection: Connection, taken: Claim, usage_id: int, key: str | None = KEY) -> Any:
    return settle.succeed(
        connection,
        taken,
        usage_id,
        CallRecord(outcome="ok", complete=True),
        output='{"a": 1}',
        prompt="p",
        prompt_version="1",
        prompt_sha256="0",
        model="m",
        request_sha256=key,
    )


def park(engine: Engine, follower: tuple[Claim, int], leader: Claim) -> str | None:
    seen = Leader(leader.id, leader.token, alive=True)
    with autocommit(engine) as connection:
        return leaders.park(connection, follower[0], follower[1], KEY, seen)


def job(engine: Engine, job_id: UUID) -> Any:
    with transaction(engine) as connection:
        found = connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id})
        return found.mappings().one()


def count(engine: Engine, what: str) -> int:
    with transaction(engine) as connection:
        return connection.execute(text(f"SELECT count(*) FROM {what}")).scalar_one()


@contextmanager
def aside(engine: Engine, act: Callable[[], Any]) -> Iterator[Future[Any]]:
    """`act` in a thread of its own, which waits for a lock when the block begins."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act)
        with autocommit(engine) as connection:
            blocked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            while not connection.execute(blocked).scalar_one():
                assert not future.done(), future.result()
        yield future


def waiting(engine: Engine, number: int, **columns: Any) -> list[UUID]:
    """Jobs that wait for `KEY`."""
    ids = enqueue(engine, *(new_job() for _ in range(number)))
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET waits_for = :key WHERE id = ANY(:ids)"), {"key": KEY, "ids": ids}
        )
        for name, value in columns.items():
            connection.execute(
                text(f"UPDATE jobs SET {name} = :value WHERE id = ANY(:ids)"),
                {"value": value, "ids": ids},
            )
    return ids
