"""Inserts that go together, and what keeps them apart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from api import writer
from api.database import Database
from api.writer import Writer
from tests.integration.steps import new_job
from worker.errors import StorageUnavailable
from worker.storage.engine import transaction
from worker.storage.enqueue import Inserted, NewJob, insert_each


def written(*jobs: NewJob) -> list[Inserted | BaseException]:
    """Insert jobs as so many requests at once would."""

    async def write() -> Any:
        database = Database(2)
        use = Writer(database)
        try:
            return await asyncio.gather(*map(use.insert, jobs), return_exceptions=True)
        finally:
            database.close()

    return asyncio.run(write())


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[list[NewJob]]:
    """The jobs of each statement, as they are inserted."""
    seen: list[list[NewJob]] = []

    def noting(connection: Connection, jobs: list[NewJob]) -> list[Inserted]:
        seen.append(jobs)
        return insert_each(connection, jobs)

    monkeypatch.setattr(writer, "insert_each", noting)
    return seen


@pytest.mark.usefixtures("producer")
def test_requests_of_one_service_that_come_together_share_a_statement(
    statements: list[list[NewJob]],
) -> None:
    jobs = [new_job(service=f"s{n % 2}") for n in range(100)]
    outcomes = written(*jobs)

    assert [outcome.id for outcome in outcomes if isinstance(outcome, Inserted)] == [
        job.id for job in jobs
    ]
    assert len(statements) <= 4  # for each service at most the first one, and then all others
    assert all(len({job.service for job in together}) == 1 for together in statements)


@pytest.mark.usefixtures("producer")
def test_one_that_postgres_refuses_fails_alone() -> None:
    jobs = [new_job(service="s", lane="interactive" if n != 5 else "wrong") for n in range(10)]
    outcomes = written(*jobs)
    kinds = Counter(isinstance(outcome, Inserted) for outcome in outcomes)
    assert kinds == {True: 9, False: 1}
    assert not isinstance(outcomes[5], Inserted)


@pytest.mark.usefixtures("producer")
def test_a_conflict_stops_none_of_the_others() -> None:
    jobs = [new_job(service="s", idempotency_key="k", input=f'{{"n": {n}}}') for n in (1, 1, 2, 1)]
    outcomes = [outcome for outcome in written(*jobs) if isinstance(outcome, Inserted)]
    assert [outcome.same_input for outcome in outcomes] == [True, True, False, True]
    assert len({outcome.id for outcome in outcomes}) == 1
    assert [outcome.created_at is not None for outcome in outcomes].count(True) == 1


@pytest.mark.usefixtures("producer")
def test_a_service_that_waits_for_a_lock_delays_no_other(
    eventually: Callable[..., None],
) -> None:
    async def write() -> None:
        database = Database(3)
        use = Writer(database)
        with transaction() as held:
            insert_each(held, [new_job(service="slow", idempotency_key="k")])
            waiting = asyncio.create_task(use.insert(new_job(service="slow", idempotency_key="k")))
            behind = asyncio.create_task(use.insert(new_job(service="slow")))
            async with asyncio.timeout(10):
                await use.insert(new_job(service="quick"))
            assert not waiting.done()
            assert not behind.done()
        async with asyncio.timeout(10):
            assert (await waiting).created_at is None
            await behind
        database.close()

    asyncio.run(write())


@pytest.mark.usefixtures("producer")
def test_without_postgres_every_request_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise StorageUnavailable("gone")

    monkeypatch.setattr("api.database.transaction", gone)
    outcomes = written(*(new_job(service="s") for _ in range(5)))
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 5
