"""People who cancel, servers that dawdle, and tasks with bugs in them."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from celery import Celery
from sqlalchemy import create_engine

from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.storage import control

#: As in altered.py, which only a worker can import.
CALL_TIMEOUT = 2.0


@pytest.fixture(scope="module")
def system(new_system):  # type: ignore[no-untyped-def]
    """One system for the whole module: nothing here harms it."""
    with new_system() as shared:
        yield shared


@pytest.fixture(scope="module")
def fleet(system: System) -> Iterator[Fleet]:
    """A worker whose task misbehaves when a text says so."""
    workers = Fleet(system)
    workers.start(app="tests.chaos.altered")
    yield workers
    workers.stop()


pytestmark = pytest.mark.usefixtures("fleet")


@pytest.fixture(autouse=True)
def quiet(system: System) -> None:
    """Nothing left of the test before."""
    system.claude.reset()
    system.claude.configure(latency=0.0)
    system.sql("DELETE FROM jobs")


def cancel(system: System, jobs: list[UUID]) -> None:
    url = system.environment["DATABASE_URL"].replace("postgresql", "postgresql+psycopg", 1)
    engine = create_engine(url)
    with engine.begin() as connection:
        control.cancel_jobs(connection, jobs)
    engine.dispose()


def test_running_jobs_are_cancelled_amid_their_calls_and_claude_stops(system: System) -> None:
    system.claude.faults({"match": "hangs", "stall": 60, "at": "headers", "times": None})
    jobs = system.enqueue(10, "hangs")
    system.running(10)

    cancel(system, jobs)
    # Claude would be silent for a minute; no reply is waited for.
    system.all_end(seconds=30)

    assert system.summary() == {"cancelled": 10}
    system.eventually(lambda: system.claude.stats()["in_flight"] == 0, "Claude goes on")
    assert {entry.outcome for entry in system.claude.ledger()} == {"disconnected"}
    assert {tuple(job["outcomes"]) for job in system.jobs()} == {("interrupted",)}
    system.assert_accounted_for()


def test_a_cancelled_job_ends_even_if_its_call_fails_at_that_moment(system: System) -> None:
    system.claude.faults({"match": "unlucky", "delay": 1.0, "status": 529, "times": None})
    jobs = system.enqueue(5, "unlucky")
    system.running(5)

    # What `cancel` does, at a moment at which no heartbeat sees it before the call has failed.
    system.eventually(lambda: system.claude.stats()["in_flight"] < 5, "no call fails", every=0.0)
    cancel(system, jobs)

    system.all_end(seconds=20)
    assert system.summary() == {"cancelled": 5}


@pytest.mark.parametrize("terminate", [False, True])
def test_revoking_a_running_job_through_celery_never_makes_it_vanish(
    system: System, terminate: bool
) -> None:
    system.claude.faults({"match": "hangs", "stall": 60, "at": "headers", "times": None})
    (job,) = system.enqueue(1, "hangs")
    system.running(1)
    app = Celery(broker=system.environment["REDIS_URL"])
    app.control.revoke(str(job), terminate=terminate)
    app.close()

    # Without `terminate`, Celery lets running tasks be; this one ends at its timeout.
    system.eventually(
        lambda: system.count("state IN ('cancelled', 'queued', 'dispatched')") == 1,
        system.unfinished,
        seconds=10,
    )
    system.all_end(seconds=30)
    assert system.summary() == {"cancelled": 1}
    system.assert_accounted_for()


def test_a_server_that_trickles_is_cut_off_at_the_deadline(system: System) -> None:
    system.claude.faults({"match": "drip", "trickle": 1.0, "times": None})
    system.enqueue(5, "drip", max_attempts=1)

    system.all_end(seconds=CALL_TIMEOUT + 10)

    for job in system.jobs():
        assert (job["state"], job["error"]["type"]) == ("failed", "timeout")
        assert job["outcomes"] == ["timeout"]
        assert (job["finished_at"] - job["started_at"]).total_seconds() >= CALL_TIMEOUT
    system.eventually(lambda: system.claude.stats()["in_flight"] == 0, "Claude goes on")
    system.assert_accounted_for()


def test_a_bug_in_a_check_costs_no_more_calls_than_the_job_has_attempts(system: System) -> None:
    system.enqueue(1, "RAISE ", max_attempts=1)

    system.all_end(seconds=30)

    (job,) = system.jobs()
    assert job["state"] == "failed"
    assert len(system.claude.ledger()) == 1
    assert job["rescues"] == 0


def test_a_bug_before_the_call_ends_the_job(system: System) -> None:
    system.enqueue(1, "RAISE_EARLY ")

    system.all_end(seconds=20)

    assert system.summary() == {"failed": 1}


def test_a_message_that_arrives_while_postgres_is_down_is_not_lost(system: System) -> None:
    postgres = system.stack.postgres
    postgres.stop()
    job_id = str(uuid4())
    app = Celery(broker=system.environment["REDIS_URL"])
    app.send_task(
        "summarize_text",
        task_id=job_id,
        kwargs={"text": "The fox and the dog.", "max_words": 50, "audience": "all"},
    )
    app.close()
    with system.broker() as broker:
        system.eventually(lambda: broker.llen("celery") == 0, "the message was not taken")
    postgres.start()

    system.eventually(lambda: system.summary() == {"succeeded": 1}, "the message was lost", 20)
