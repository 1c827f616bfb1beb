"""The batch lane, the result cache and shared requests together, with a real worker."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from sandbox.claude.client import SimulatedClaude
from tasks import summarize_text
from worker.errors import JobFailed
from worker.settings import get_settings
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("worker")

HOUR = 3600.0

Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def fleet_environment(fleet_environment: dict[str, str]) -> Iterator[dict[str, str]]:
    given = {
        "CLAUDE_JOBS_CACHE_SECONDS": "600",
        "CLAUDE_JOBS_BATCH_WAIT_MINUTES": "0",
        "CLAUDE_JOBS_BATCH_POLL_SECONDS": "0.2",
        "CLAUDE_JOBS_BATCH_CONFIRM_SECONDS": "3",
        "CLAUDE_JOBS_LEASE_SECONDS": "2",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        yield fleet_environment | given


@pytest.fixture(autouse=True)
def settled(claude: SimulatedClaude, eventually: Eventually) -> Iterator[None]:
    yield
    claude.clear_faults()
    claude.configure(batch_seconds=0.0)
    eventually(lambda: not batches("intent", "submitted", "ended"), "a batch is left open")
    eventually(lambda: not rows("SELECT * FROM request_leaders"), "somebody leads for ever")


@pytest.fixture
def marker() -> str:
    """Makes the inputs of a test its own."""
    return uuid.uuid4().hex


def rows(sql: str, **values: Any) -> list[Any]:
    with transaction() as connection:
        return list(connection.execute(text(sql), values).mappings())


def batches(*states: str) -> list[Any]:
    return rows("SELECT * FROM batches WHERE state = ANY(:states)", states=list(states))


def summaries(number: int, marker: str, **options: Any) -> list[Any]:
    given = {"text": f"The ferry leaves at nine. {marker}", "max_words": 50, "audience": "all"}
    options = {"lane": "batch"} | options
    return summarize_text.enqueue_many(
        [summarize_text.new_job(given, **options) for _ in range(number)]
    )


def of_jobs(jobs: Sequence[Any], sql: str) -> list[Any]:
    return rows(sql, ids=[job.id for job in jobs])


def sources(jobs: Sequence[Any]) -> Counter[str]:
    found = of_jobs(jobs, "SELECT source FROM results WHERE job_id = ANY(:ids)")
    return Counter(row["source"] for row in found)


def usage(jobs: Sequence[Any]) -> list[Any]:
    return of_jobs(jobs, "SELECT * FROM usage WHERE job_id = ANY(:ids) ORDER BY id")


def waiting(jobs: Sequence[Any]) -> int:
    found = of_jobs(
        jobs,
        """SELECT id FROM jobs WHERE id = ANY(:ids) AND state = 'queued'
           AND waits_for IS NOT NULL AND attempt = 0""",
    )
    return len(found)


def billed(claude: SimulatedClaude) -> list[Any]:
    return [entry for entry in claude.ledger() if entry.billed]


def all_succeed(jobs: Sequence[Any]) -> None:
    assert len({job.wait(timeout=60).summary for job in jobs}) == 1


def in_a_batch(claude: SimulatedClaude, eventually: Eventually, jobs: Sequence[Any]) -> None:
    """One of them is, and the others wait."""
    claude.configure(batch_seconds=HOUR)
    eventually(lambda: batches("submitted") and waiting(jobs) == len(jobs) - 1, "none leads")


def test_identical_jobs_of_the_lane_make_one_request(
    claude: SimulatedClaude, eventually: Eventually, marker: str
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(120, marker)  # more than are gathered in one transaction
    in_a_batch(claude, eventually, jobs)
    claude.advance_batches(HOUR)
    all_succeed(jobs)
    (entry,) = billed(claude)
    assert entry.batch_id
    assert sources(jobs) == {"batch": 1, "cache": 119}
    calls = usage(jobs)
    assert len(calls) == 120
    assert sum(row["cost_usd"] for row in calls) == entry.cost_usd
    for row in calls:
        if row["source"] == "cache":
            assert (row["coalesced"], row["batch_id"], row["cost_usd"]) == (True, None, Decimal(0))
            assert row["full_cost_usd"] == entry.cost_usd * 2
    found = of_jobs(jobs, "SELECT DISTINCT lane, attempt, state FROM jobs WHERE id = ANY(:ids)")
    assert [tuple(row.values()) for row in found] == [("batch", 1, "succeeded")]
    eventually(lambda: not batches("submitted", "ended"))
    (batch,) = batches("ingested")[-1:]
    assert batch["requests"] == 1


def test_both_lanes_are_served_each_others_results(
    claude: SimulatedClaude, eventually: Eventually, marker: str
) -> None:
    (called,) = summaries(1, f"{marker} 1", lane="interactive")
    called.wait(timeout=60)
    served = summaries(3, f"{marker} 1")
    all_succeed([called, *served])
    assert sources(served) == {"cache": 3}
    assert {(row["coalesced"], row["batch_id"]) for row in usage(served)} == {(False, None)}

    (batched,) = summaries(1, f"{marker} 2")
    batched.wait(timeout=60)
    assert sources([batched]) == {"batch": 1}
    also = summaries(2, f"{marker} 2", lane="interactive") + summaries(2, f"{marker} 2")
    all_succeed([batched, *also])
    assert sources(also) == {"cache": 4}
    assert len(billed(claude)) == 2
    apart = summaries(1, f"{marker} 2", cache=False)
    all_succeed(apart)
    assert sources(apart) == {"batch": 1}


def test_an_interactive_job_does_not_wait_for_a_batch(
    claude: SimulatedClaude, eventually: Eventually, marker: str
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(3, marker)
    in_a_batch(claude, eventually, jobs)
    (urgent,) = summaries(1, marker, lane="interactive")
    urgent.wait(timeout=60)
    assert sources([urgent]) == {"api": 1}
    assert waiting(jobs) == 2
    claude.advance_batches(HOUR)
    for job in jobs:
        job.wait(timeout=60)
    assert len(billed(claude)) == 2


def test_a_job_of_the_lane_waits_for_an_interactive_one(
    claude: SimulatedClaude, eventually: Eventually, marker: str
) -> None:
    claude.configure(latency=4.0)
    (first,) = summaries(1, marker, lane="interactive")
    eventually(lambda: first.state == "running")
    jobs = summaries(3, marker)
    eventually(lambda: waiting(jobs) == 3)
    all_succeed([first, *jobs])
    (entry,) = billed(claude)
    assert entry.batch_id is None
    assert sources(jobs) == {"cache": 3}
    claude.configure(latency=0.0)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"result": "expired"},
        {"result": "canceled"},
        {"content": "wrong_type"},
    ],
    ids=["errored", "expired", "canceled", "mended"],
)
def test_a_leader_that_comes_back_has_its_followers_served_once_it_is_done(
    claude: SimulatedClaude, eventually: Eventually, marker: str, fault: dict[str, Any]
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(5, marker)
    in_a_batch(claude, eventually, jobs)
    claude.faults({"on": "batch_item", "match": marker, **fault})
    claude.advance_batches(HOUR)
    claude.configure(batch_seconds=0.0)
    all_succeed(jobs)
    assert sources(jobs) == {"api": 1, "cache": 4}
    mended = fault.get("content") is not None
    assert len(billed(claude)) == (2 if mended else 1)


def test_a_failure_of_the_request_is_shared(
    claude: SimulatedClaude, eventually: Eventually, marker: str
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(4, marker)
    in_a_batch(claude, eventually, jobs)
    claude.faults({"on": "batch_item", "match": marker, "status": 400, "message": "no such thing"})
    claude.advance_batches(HOUR)
    for job in jobs:
        with pytest.raises(JobFailed, match="no such thing"):
            job.wait(timeout=60)
    assert not billed(claude)


def test_a_leader_that_is_cancelled_is_replaced(
    claude: SimulatedClaude, eventually: Eventually, marker: str
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(4, marker)
    in_a_batch(claude, eventually, jobs)
    (leader,) = [job for job in jobs if job.state == "running"]
    leader.cancel()
    others = [job for job in jobs if job is not leader]
    eventually(lambda: waiting(others) == 2 and len(batches("submitted")) == 1, "nobody leads")
    claude.configure(batch_seconds=0.0)
    claude.advance_batches(HOUR)
    all_succeed(others)
    assert sources(others) == {"batch": 1, "cache": 2}


def test_a_batch_that_fails_as_a_whole_leaves_nobody_waiting(
    claude: SimulatedClaude, eventually: Eventually, marker: str
) -> None:
    claude.faults({"on": "batch_create", "status": 403, "message": "no batches here"})
    jobs = summaries(5, marker)
    all_succeed(jobs)
    assert sources(jobs) == {"api": 1, "cache": 4}
    assert len(billed(claude)) == 1


def test_a_follower_whose_deadline_comes_near_goes_alone(
    claude: SimulatedClaude, eventually: Eventually, marker: str
) -> None:
    claude.configure(batch_seconds=HOUR)
    deadline = datetime.now(UTC) + timedelta(hours=40)
    jobs = summaries(3, marker, deadline=deadline)
    in_a_batch(claude, eventually, jobs)
    hurried = next(job for job in jobs if job.state == "queued")
    rows(
        "UPDATE jobs SET deadline_at = now() + interval '3 hours' WHERE id = :id RETURNING id",
        id=hurried.id,
    )
    hurried.wait(timeout=60)
    assert sources([hurried]) == {"api": 1}
    assert waiting(jobs) == 1
    claude.advance_batches(HOUR)
    for job in jobs:
        job.wait(timeout=60)
    assert len(billed(claude)) == 2
