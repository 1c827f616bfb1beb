"""Intervening while jobs run: cancel, revoke, pause, spend limits, requeue, deadlines."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from click.testing import Result
from typer.testing import CliRunner

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from sandbox.service import Service
from tasks import summarize_text
from worker.cli.app import app
from worker.errors import JobCancelled, JobFailed
from worker.storage import control, read
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("worker")


def summary(**options: Any) -> Any:
    marker = options.pop("marker", uuid.uuid4().hex)
    return summarize_text.enqueue(
        text=f"The fox and the dog. {marker}", max_words=50, audience="everybody", **options
    )


def details(job: Any) -> tuple[Any, Any]:
    with transaction() as connection:
        return read.job_details(connection, job.id)


def claude_jobs(*arguments: str) -> Result:
    """The command in this process: starting an interpreter for each would take a second."""
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def slow(claude: SimulatedClaude) -> Iterator[str]:
    """A marker: a job that holds it hangs at Claude until something ends it."""
    marker = uuid.uuid4().hex
    claude.faults(Fault(match=marker, stall=60, cut=False, at="headers", times=None))
    yield marker
    claude.clear_faults()


def running(job: Any, eventually: Callable[..., None]) -> None:
    eventually(lambda: job.state == "running", "the job never ran")


def test_a_queued_job_is_cancelled_at_once(claude: SimulatedClaude) -> None:
    with transaction() as connection:
        control.pause(connection, "task", "summarize_text", reason="test", by="test")
    job = summary()
    assert job.cancel() == "cancelled"
    with transaction() as connection:
        control.resume(connection, "task", "summarize_text")
    with pytest.raises(JobCancelled):
        job.wait(timeout=10)
    assert job.cancel() == "cancelled"
    assert claude.ledger() == []


def test_a_running_job_is_cancelled_and_its_connection_closed(
    claude: SimulatedClaude, slow: str, eventually: Callable[..., None]
) -> None:
    job = summary(marker=slow)
    running(job, eventually)
    eventually(lambda: claude.stats()["in_flight"] == 1)

    done = claude_jobs("cancel", str(job.id))

    assert done.exit_code == 0, done.stderr
    with pytest.raises(JobCancelled):
        job.wait(timeout=10)
    eventually(lambda: claude.stats()["in_flight"] == 0, "the connection stayed open")
    _, (call,) = details(job)
    assert call["outcome"] == "interrupted"


@pytest.mark.parametrize("terminate", [False, True])
def test_revoking_through_celery_cancels_the_job(
    fleet_environment: dict[str, str],
    slow: str,
    eventually: Callable[..., None],
    terminate: bool,
) -> None:
    producer = Celery(broker=fleet_environment["REDIS_URL"])
    if terminate:
        job = summary(marker=slow)
        running(job, eventually)
        producer.control.revoke(str(job.id), terminate=True)
    else:
        with transaction() as connection:
            control.pause(connection, "all", "", reason="test", by="test")
        job = summary()
        producer.control.revoke(str(job.id), reply=True, timeout=5)
        with transaction() as connection:
            control.resume(connection, "all", "")
    with pytest.raises(JobCancelled):
        job.wait(timeout=20)
    producer.close()


@pytest.mark.parametrize("scope", ["all", "task:summarize_text", "model:claude-haiku-5-5"])
def test_a_pause_holds_jobs_and_resume_runs_them(
    claude: SimulatedClaude, scope: str, eventually: Callable[..., None]
) -> None:
    assert claude_jobs("pause", scope, "--reason", "maintenance").exit_code == 0
    held = summary()
    other = summary(model="claude-sonnet-5-5")
    if scope.startswith("model"):
        other.wait(timeout=20)
    shown = json.loads(claude_jobs("status", "--json").stdout)
    assert shown["pauses"][0]["reason"] == "maintenance"
    assert held.state == "queued"
    assert claude_jobs("health").exit_code == 0

    assert claude_jobs("resume", scope).exit_code == 0

    held.wait(timeout=20)
    other.wait(timeout=20)


def test_a_spend_limit_pauses_everything_and_says_so(
    claude: SimulatedClaude, worker: Service, eventually: Callable[..., None]
) -> None:
    marker = uuid.uuid4().hex
    claude.faults(
        Fault(
            match=marker,
            status=429,
            error_type="rate_limit_error",
            error_code="enforced_spend_limit_reached",
        )
    )
    job = summary(marker=marker)

    def paused() -> bool:
        with transaction() as connection:
            return bool(control.pauses(connection))

    eventually(paused)
    try:
        eventually(lambda: "EVERYTHING IS PAUSED" in worker.log_text())
        eventually(lambda: job.state == "queued")
        row, _ = details(job)
        assert row["attempt"] == 0
    finally:  # or every test that follows would wait in vain
        assert claude_jobs("resume").exit_code == 0
    job.wait(timeout=20)
    assert len(claude.ledger()) == 2


def test_a_failed_job_is_listed_and_requeued_with_its_history(claude: SimulatedClaude) -> None:
    marker = uuid.uuid4().hex
    claude.faults(Fault(match=marker, stop_reason="refusal", content="empty"))
    job = summary(marker=marker)
    with pytest.raises(JobFailed):
        job.wait(timeout=20)

    assert str(job.id) in claude_jobs("failed", "--error", "refused").stdout
    selection = ("--task", "summarize_text", "--error", "refused", "--since", "1h")
    dry = claude_jobs("requeue", *selection, "--dry-run")
    assert "1 jobs would be requeued" in dry.stderr
    assert job.state == "failed"
    assert claude_jobs("requeue", *selection, "--yes").exit_code == 0

    job.wait(timeout=20)
    row, calls = details(job)
    assert row["attempt"] == 1
    assert [call["outcome"] for call in calls] == ["refused", "ok"]


def test_a_rate_limit_costs_no_attempt_and_is_never_undercut(claude: SimulatedClaude) -> None:
    marker = uuid.uuid4().hex
    claude.faults(Fault(match=marker, status=429, headers={"retry-after": "1"}, times=2))

    job = summary(marker=marker, max_attempts=1)
    job.wait(timeout=30)

    row, calls = details(job)
    assert [call["outcome"] for call in calls] == ["rate_limited", "rate_limited", "ok"]
    assert row["attempt"] == 1
    arrivals = [entry.received_at for entry in claude.ledger()]
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(arrivals))
