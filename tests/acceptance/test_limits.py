"""A worker under Claude's rate limits: it uses them, waits for them, and wastes nothing on 429s."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack
from tasks import classify_ticket, summarize_text
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.storage.engine import transaction
from worker.storage.fleet import counts

pytestmark = pytest.mark.usefixtures("fleet")

TEXT = "The quick brown fox jumps over the lazy dog, and the dog never minds."
OPUS = "claude-opus-5-5"


def account(requests: int, burst_seconds: float) -> dict[str, Any]:
    """An account that may send so many requests a minute on the small model."""
    plenty = {"requests": 10**6, "input_tokens": 10**9, "output_tokens": 10**9}
    limits = {"claude-haiku-5": plenty | {"requests": requests}, "*": plenty}
    return {"limits": limits, "burst_seconds": burst_seconds}


@pytest.fixture(scope="module")
def system(stack: Stack, fleet_environment: dict[str, str]) -> Iterator[System]:
    system = System(stack, fleet_environment)
    yield system
    system.close()


@pytest.fixture(scope="module")
def fleet(system: System) -> Iterator[Fleet]:
    """Two workers, so that what they share is shared."""
    workers = Fleet(system)
    workers.start(2)
    yield workers
    workers.stop()


@pytest.fixture(autouse=True)
def no_limits_left(claude: SimulatedClaude) -> Iterator[None]:
    yield
    claude.configure(limits=None, latency=0.0)


def enqueue(count: int, **options: Any) -> list[Any]:
    jobs = [
        summarize_text.new_job(
            {"text": f"{TEXT} {n}", "max_words": 50, "audience": "everybody"}, **options
        )
        for n in range(count)
    ]
    return summarize_text.enqueue_many(jobs)


def test_a_backlog_meets_a_limit_without_a_storm(claude: SimulatedClaude, system: System) -> None:
    """120 jobs behind 30 requests at once and 15 a second."""
    claude.configure(**account(900, burst_seconds=2))
    jobs = enqueue(120)
    other = classify_ticket.enqueue(
        subject="s", body=TEXT, categories=["billing", "other"], model=OPUS, priority=200
    )

    other.wait(timeout=15)  # one model's limit holds up no other's jobs
    assert {job.state for job in jobs} > {"succeeded"}
    system.all_end(seconds=60)

    seen = claude.stats()["classes"]["claude-haiku-5"]
    assert seen["admitted"] == 120
    # Before the first reply nobody knows of the limit.
    assert seen["rejected"] <= 60
    calls = system.sql("SELECT outcome, count(*) AS n FROM usage GROUP BY 1")
    assert {call["outcome"] for call in calls} <= {"ok", "rate_limited"}
    attempts = system.sql("SELECT max(attempt) AS most FROM jobs")
    assert attempts == [{"most": 1}]


def test_what_is_urgent_goes_first_although_much_else_waits(claude: SimulatedClaude) -> None:
    claude.configure(**account(300, burst_seconds=2))
    waiting = enqueue(100, priority=100)
    (urgent,) = enqueue(1, priority=0)

    urgent.wait(timeout=20)

    left = [job for job in waiting if job.state in ("queued", "dispatched")]
    assert len(left) > 20
    with transaction() as connection:
        assert counts(connection)
    for job in waiting:
        job.cancel()


def test_the_fleet_is_silent_until_a_429_is_over(claude: SimulatedClaude, system: System) -> None:
    first = enqueue(1)[0]
    first.wait(timeout=20)
    claude.faults({"match": TEXT, "status": 429, "headers": {"retry-after": "2"}})
    before = len(claude.ledger())
    jobs = enqueue(40)
    for job in jobs:
        job.wait(timeout=40)

    entries = claude.ledger(before)
    refused = next(entry for entry in entries if entry.status == 429)
    # Those that were on their way when it came are not to be called back.
    knew = refused.finished_at + 0.5
    early = [e for e in entries if knew < e.received_at < refused.finished_at + 2.0]
    assert early == []
    assert system.sql("SELECT max(attempt) AS most FROM jobs") == [{"most": 1}]
