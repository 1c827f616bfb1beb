"""Identical jobs that run at once: one asks, the others wait for it without a slot."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import celery
import psycopg
import pytest
from sqlalchemy import text

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from sandbox.service import Service
from sandbox.stack import Stack
from tasks import summarize_text
from worker.errors import JobFailed
from worker.storage import read
from worker.storage.control import Selection, requeue_jobs
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("worker")

Eventually = Callable[..., None]
ENDLESS = 600


@pytest.fixture(scope="module")
def fleet_environment(fleet_environment: dict[str, str]) -> dict[str, str]:
    # Two slots: whoever waits in one would be noticed.
    return fleet_environment | {
        "CLAUDE_JOBS_CACHE_SECONDS": "600",
        "CLAUDE_JOBS_CONCURRENCY": "2",
        "CLAUDE_JOBS_LEASE_SECONDS": "3",
    }


@pytest.fixture(scope="module")
def worker(stack: Stack, fleet_environment: dict[str, str]) -> Iterator[Service]:
    extra = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    service = stack.start_worker("coalescing", app="tests.acceptance.sharing", **extra)
    yield service
    service.stop()


@pytest.fixture
def marker() -> str:
    """Makes the inputs of a test its own."""
    return uuid.uuid4().hex


def summary(marker: str, **options: Any) -> Any:
    fields = {"text": f"The fox. {marker}", "max_words": 50, "audience": "everybody"}
    return summarize_text.enqueue(**fields, **options)


def details(job: Any) -> tuple[Any, Any]:
    with transaction() as connection:
        return read.job_details(connection, job.id)


def waits(job: Any) -> bool:
    row, _ = details(job)
    return row["state"] == "queued" and row["waits_for"] is not None


def asked(claude: SimulatedClaude) -> int:
    return len(claude.ledger())


@pytest.fixture
def share(claude: SimulatedClaude, marker: str, eventually: Eventually) -> Callable[..., Any]:
    """Has one job ask, without an end, and others wait for it: `share({}, {"priority": 5})`."""

    def start(*options: dict[str, Any]) -> tuple[Any, list[Any]]:
        claude.configure(latency=ENDLESS)
        leader = summary(marker)
        eventually(lambda: claude.stats()["in_flight"] == 1)
        followers = [summary(marker, **each) for each in options]
        eventually(lambda: all(map(waits, followers)), "not all wait")
        claude.configure(latency=0)
        return leader, followers

    return start


def test_followers_hold_no_slot_and_share_the_result(
    claude: SimulatedClaude, marker: str, eventually: Eventually
) -> None:
    claude.configure(latency=3)
    jobs = [summary(marker, user_id=f"user-{n}") for n in range(9)]
    eventually(lambda: sum(map(waits, jobs)) == 8)
    # Two slots, and one of them is free.
    claude.configure(latency=0)
    summary(uuid.uuid4().hex).wait(20)

    outputs = [job.wait(30) for job in jobs]

    assert outputs == outputs[:1] * 9
    assert asked(claude) == 2
    rows = [details(job) for job in jobs]
    (leader,) = [job["id"] for job, _ in rows if job["source"] == "api"]
    (cost,) = [calls[0]["full_cost_usd"] for job, calls in rows if job["source"] == "api"]
    for number, (job, (call,)) in enumerate(rows):
        assert (job["state"], job["attempt"], job["waits_for"]) == ("succeeded", 1, None)
        assert call["user_id"] == f"user-{number}"
        if job["id"] != leader:
            assert (job["source"], job["source_job_id"]) == ("cache", leader)
            assert (call["source"], call["source_job_id"]) == ("cache", leader)
            assert (call["coalesced"], call["cost_usd"], call["full_cost_usd"]) == (True, 0, cost)
            assert (call["outcome"], call["request_id"]) == ("ok", None)


def test_a_follower_that_is_cancelled_stays_so(
    share: Callable[..., Any], claude: SimulatedClaude, eventually: Eventually
) -> None:
    leader, (first, second, third) = share({}, {}, {})

    assert first.cancel() == "cancelled"
    leader.cancel()

    second.wait(20)
    third.wait(20)
    assert [job.state for job in (leader, first)] == ["cancelled", "cancelled"]
    assert details(first)[1] == []
    assert asked(claude) == 2


def test_when_the_leader_is_cancelled_the_most_urgent_one_asks(
    share: Callable[..., Any], claude: SimulatedClaude
) -> None:
    leader, followers = share({}, {"priority": 5}, {"priority": 50})
    leader.cancel()
    for job in followers:
        job.wait(20)

    assert [details(job)[0]["source"] for job in followers] == ["cache", "api", "cache"]
    assert asked(claude) == 2


def test_a_pause_between_attempts_is_not_waited_for(
    claude: SimulatedClaude, marker: str, eventually: Eventually
) -> None:
    claude.faults(Fault(match=marker, delay=3, status=503, headers={"retry-after": "3600"}))
    leader = summary(marker)
    eventually(lambda: leader.state == "running")
    follower = summary(marker)

    follower.wait(30)

    row, _ = details(leader)
    # It took on the attempt that the request had cost.
    assert (row["state"], details(follower)[0]["attempt"]) == ("queued", 2)
    assert asked(claude) == 2
    leader.cancel()


@pytest.mark.parametrize(
    ("fault", "kind", "calls"),
    [
        (Fault(stop_reason="refusal", times=None), "refused", 1),
        (Fault(status=400, times=None), "invalid_request_error", 1),
        (Fault(status=500, times=None), "api_error", 5),
    ],
    ids=["refused", "invalid", "failing"],
)
def test_what_fails_for_one_fails_for_all_and_is_paid_for_once(
    claude: SimulatedClaude, marker: str, fault: Fault, kind: str, calls: int
) -> None:
    claude.faults(fault.model_copy(update={"match": marker, "delay": 1}))
    jobs = [summary(marker) for _ in range(20)]

    errors = []
    for job in jobs:
        with pytest.raises(JobFailed) as caught:
            job.wait(60)
        errors.append(caught.value.error)

    assert {error["type"] for error in errors} == {kind}
    assert asked(claude) == calls
    assert sum("of_job" in error for error in errors) == 20 - 1

    # What people run again is asked anew.
    claude.clear_faults()
    with transaction() as connection:
        requeue_jobs(connection, Selection(ids=[job.id for job in jobs]))
    assert len({job.wait(30).model_dump_json() for job in jobs}) == 1
    assert asked(claude) == calls + 1


def test_who_may_try_more_often_goes_on(
    claude: SimulatedClaude, marker: str, eventually: Eventually
) -> None:
    claude.faults(Fault(match=marker, delay=1, status=500, times=2))
    leader = summary(marker, max_attempts=1)
    eventually(lambda: leader.state == "running")
    patient = [summary(marker) for _ in range(3)]

    for job in patient:
        job.wait(30)

    assert leader.state == "failed"
    assert asked(claude) == 3


def test_followers_are_told_of_everywhere(
    claude: SimulatedClaude,
    marker: str,
    share: Callable[..., Any],
    fleet_environment: dict[str, str],
    eventually: Eventually,
) -> None:
    seen: set[str] = set()
    app = celery.Celery(broker=fleet_environment["REDIS_URL"])
    connection = app.connection_for_read()
    receiver = app.events.Receiver(
        connection, handlers={"task-succeeded": lambda event: seen.add(event["uuid"])}
    )
    thread = threading.Thread(target=lambda: receiver.capture(limit=None, wakeup=False))
    thread.start()
    with psycopg.connect(fleet_environment["DATABASE_URL"], autocommit=True) as listener:
        listener.execute("LISTEN job_finished")
        leader, followers = share({"webhook_url": "https://shop.example/done"}, {"stream": True})
        leader.cancel()

        (event,) = list(followers[1].stream(20))
        said = {note.payload for note in listener.notifies(timeout=20, stop_after=3)}

    assert event.output == followers[0].wait(20)
    assert said == {str(job.id) for job in (leader, *followers)}
    eventually(lambda: seen == {str(job.id) for job in followers}, str(seen))
    with transaction() as reading:
        owed = reading.execute(
            text("SELECT state FROM webhook_deliveries WHERE job_id = :id"), {"id": followers[0].id}
        ).scalars()
        assert owed.all() == ["succeeded"]
    receiver.should_stop = True
    thread.join(10)
    connection.release()


def test_a_follower_whose_leader_is_nowhere_goes_ahead(
    claude: SimulatedClaude, marker: str, eventually: Eventually
) -> None:
    """As after a crash of Postgres, which empties the table of leaders."""
    with transaction() as connection:
        document = summarize_text.new_job(
            {"text": marker, "max_words": 50, "audience": "everybody"}
        ).input
        connection.execute(
            text("""
            INSERT INTO jobs (task, input, waits_for)
            SELECT 'summarize_text', cast(:input AS jsonb), 'a request that nobody makes'
            FROM generate_series(1, 5)"""),
            {"input": document},
        )

    def ended() -> int:
        with transaction() as connection:
            return connection.execute(
                text("""
                SELECT count(*) FROM jobs
                WHERE input ->> 'text' = :text AND state = 'succeeded'"""),
                {"text": marker},
            ).scalar_one()

    eventually(lambda: ended() == 5, seconds=60)
    assert asked(claude) == 1
