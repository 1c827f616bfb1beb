"""Waiting for jobs, many at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text

from sandbox.stack import Stack
from tasks import classify_ticket
from worker.engine.completion import Completions, get_completions
from worker.engine.hearing import HearingLoop
from worker.engine.job import Job
from worker.errors import JobCancelled, JobNotFound, StorageUnavailable, WaitTimeout
from worker.settings import get_settings
from worker.storage.engine import get_engine, transaction
from worker.storage.finished import say_finished

pytestmark = pytest.mark.usefixtures("producer")


@pytest.fixture
def completions() -> Completions:
    return Completions()


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements that were run."""
    run: list[str] = []

    def note(*arguments: Any) -> None:
        run.append(arguments[2])

    event.listen(get_engine(), "before_cursor_execute", note)
    yield run
    event.remove(get_engine(), "before_cursor_execute", note)


def enqueue(count: int = 1) -> list[UUID]:
    values = {"subject": "s", "body": "b", "categories": ["x", "y"]}
    new = [classify_ticket.new_job(values) for _ in range(count)]
    return [job.id for job in classify_ticket.enqueue_many(new)]


def end(ids: list[UUID], state: str = "cancelled") -> None:
    with transaction() as connection:
        connection.execute(
            text("UPDATE jobs SET state = :state, finished_at = now() WHERE id = ANY(:ids)"),
            {"state": state, "ids": ids},
        )


def test_hundreds_who_wait_are_one_statement_at_a_time(
    completions: Completions, statements: list[str], eventually: Callable[..., None]
) -> None:
    ids = enqueue(300)
    ended: list[dict[UUID, Any]] = []
    threads = [
        threading.Thread(target=lambda i=i: ended.append(completions.wait([i], 30))) for i in ids
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: len(completions._watches) == 300, "not all wait")
    del statements[:]
    end(ids)
    for thread in threads:
        thread.join(30)

    assert sorted(one for each in ended for one in each) == sorted(ids)
    assert {row["state"] for each in ended for row in each.values()} == {"cancelled"}
    assert len([s for s in statements if "results.output" in s]) < 60
    assert completions._watches == {}


def test_several_jobs_are_waited_for_and_those_that_ended_are_told(
    completions: Completions,
) -> None:
    done, running = enqueue(2)
    end([done], "failed")

    assert list(completions.wait([done, running], 0.1)) == [done]
    assert completions.wait([done])[done]["state"] == "failed"
    # Whatever the timeout, there is one look.
    assert list(completions.wait([done, running], 0)) == [done]


def test_tasks_of_an_event_loop_wait_as_well(completions: Completions) -> None:
    ids = enqueue(50)

    async def main() -> list[dict[UUID, Any]]:
        waiting = [asyncio.create_task(completions.await_([i], 30)) for i in ids]
        assert await completions.await_(ids, 0.01) == {}
        await asyncio.to_thread(end, ids)
        return await asyncio.gather(*waiting)

    assert sorted(one for each in asyncio.run(main()) for one in each) == sorted(ids)


def test_a_job_that_does_not_exist_is_said_to_be_missing(completions: Completions) -> None:
    (known,) = enqueue()

    with pytest.raises(JobNotFound, match="never committed"):
        completions.wait([known, uuid4()], 10)
    assert completions.wait([known], 0.05) == {}


def test_who_hears_of_an_end_looks_at_once(
    completions: Completions, eventually: Callable[..., None]
) -> None:
    (job,) = enqueue()
    rung = threading.Event()
    with completions.watch(job, rung.set) as watch:
        eventually(lambda: watch.row is not None)
        # As for somebody who has waited for long.
        watch._pause = 3600
        eventually(lambda: watch.due > 1e3 + watch._since)
        end([job])
        watch.heard()
        eventually(lambda: watch.outcome is not None, "nobody looked")


def test_handles_tell_how_their_job_ended() -> None:
    (job_id,) = enqueue()
    job = Job(job_id, classify_ticket)
    with pytest.raises(WaitTimeout, match="is queued after"):
        job.wait(timeout=0.01)
    with pytest.raises(WaitTimeout, match="is queued after"):
        list(job.stream(timeout=0.01))
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait(timeout=10)
    assert [(e.kind, e.state) for e in job.stream(timeout=0)] == [("error", "cancelled")]


def test_a_postgres_that_is_not_there_is_said_at_once(stack: Stack) -> None:
    # Not by the fixture `monkeypatch`: it would put back what `producer` has taken away by then.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
        get_settings.cache_clear()
        get_engine.cache_clear()
        with pytest.raises(StorageUnavailable, match="cannot reach Postgres"):
            get_completions().wait([uuid4()], 30)
    get_settings.cache_clear()
    get_engine.cache_clear()


def test_who_waits_hears_of_the_end_before_it_looks(environment: dict[str, str]) -> None:
    (job_id,) = enqueue()
    bell = threading.Event()
    hearing = HearingLoop(get_settings())
    with get_completions().watch(job_id, bell.set) as watch:
        assert bell.wait(10)
        bell.clear()
        watch.due += 10_000  # no look by itself any more
        hearing._listener.connect()
        end([job_id])
        with transaction() as connection:
            connection.execute(text("NOTIFY job_finished, 'nonsense'"))
            say_finished(connection, [job_id])

        hearing.step()

        assert bell.wait(10)
        assert watch.outcome is not None
    hearing.stop()
