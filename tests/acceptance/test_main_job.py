"""The main job: enqueued, run by a real worker, validated, settled, accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from sandbox.service import Service
from tasks import analyze_document, classify_ticket, summarize_text
from worker.engine.registry import load_registry
from worker.errors import IdempotencyConflict, JobFailed, JobNotFound
from worker.storage import read
from worker.storage.engine import get_engine, transaction

pytestmark = pytest.mark.usefixtures("worker")

TEXT = "The quick brown fox jumps over the lazy dog, and the dog never minds."


def summary(**options: Any) -> Any:
    marker = options.pop("marker", uuid.uuid4().hex)
    return summarize_text.enqueue(
        text=f"{TEXT} {marker}", max_words=50, audience="everybody", **options
    )


def details(job: Any) -> tuple[Any, Any]:
    with transaction() as connection:
        return read.job_details(connection, job.id)


def test_a_job_becomes_a_validated_result_and_a_priced_usage_row(claude: SimulatedClaude) -> None:
    job = analyze_document.enqueue(
        document_type="fable",
        focus_areas=["animals"],
        output_depth="summary",
        document=TEXT,
        user_id="user-7",
    )

    output = job.wait(timeout=20)

    assert output.sections
    row, (call,) = details(job)
    assert row["state"] == "succeeded"
    assert row["attempt"] == 1
    assert row["claim_token"] is None
    assert call["outcome"] == "ok"
    assert call["user_id"] == "user-7"
    (entry,) = claude.ledger()
    assert call["request_id"] == entry.request_id
    assert call["input_tokens"] == entry.usage.input_tokens
    assert call["output_tokens"] == entry.usage.output_tokens
    assert call["cost_usd"] == entry.cost_usd
    prompt = load_registry().prompts.get("analyze_document")
    assert call["prompt_sha256"] == prompt.sha256
    assert row["result_prompt_version"] == prompt.version


def test_a_rolled_back_enqueue_never_existed(claude: SimulatedClaude) -> None:
    with Session(get_engine()) as session:
        rolled_back = summary(session=session)
        session.rollback()
    with Session(get_engine()) as session:
        committed = summary(session=session)
        session.commit()

    committed.wait(timeout=20)

    with pytest.raises(JobNotFound, match=str(rolled_back.id)):
        _ = rolled_back.state
    assert len(claude.ledger()) == 1


def test_a_failed_call_is_tried_again_and_every_call_has_its_row(claude: SimulatedClaude) -> None:
    marker = uuid.uuid4().hex
    claude.faults(
        Fault(match=marker, status=529),
        Fault(match=marker, content="missing_field"),
    )

    job = summary(marker=marker)
    job.wait(timeout=20)

    row, calls = details(job)
    assert [call["outcome"] for call in calls] == ["overloaded", "invalid_output", "ok"]
    assert [(call["attempt"], call["call"]) for call in calls] == [(1, 1), (2, 1), (2, 2)]
    assert row["error"] is None
    assert [call["request_id"] for call in calls] == [e.request_id for e in claude.ledger()]


def test_a_failure_that_lasts_ends_the_job_with_its_error_as_data(
    claude: SimulatedClaude, worker: Service
) -> None:
    marker = uuid.uuid4().hex
    claude.faults(Fault(match=marker, content="wrong_type", times=None))

    job = summary(marker=marker, max_attempts=2)

    with pytest.raises(JobFailed, match="invalid_output") as caught:
        job.wait(timeout=20)
    row, calls = details(job)
    assert [call["outcome"] for call in calls] == ["invalid_output"] * 4  # each one repaired once
    assert caught.value.error == row["error"]
    assert row["error"]["attempt"] == 2
    assert row["error"]["request_id"] == calls[-1]["request_id"]
    assert row["error"]["problems"]
    assert marker not in worker.log_text()


def test_a_refusal_is_final(claude: SimulatedClaude) -> None:
    marker = uuid.uuid4().hex
    claude.faults(Fault(match=marker, stop_reason="refusal", content="empty", times=None))

    job = summary(marker=marker)

    with pytest.raises(JobFailed, match="refused"):
        job.wait(timeout=20)
    assert len(claude.ledger()) == 1


def test_a_failed_check_is_repaired(claude: SimulatedClaude) -> None:
    marker = uuid.uuid4().hex
    wrong = (
        '{"category": "made up", "urgency": "low", "sentiment": "neutral", '
        '"summary": "s", "needs_human": false}'
    )
    claude.faults(Fault(match=marker, reply=wrong, times=1))

    job = classify_ticket.enqueue(subject=marker, body="?", categories=["billing", "other"])

    assert job.wait(timeout=20).category in ("billing", "other")
    _, calls = details(job)
    assert [call["outcome"] for call in calls] == ["invalid_output", "ok"]


def test_an_unknown_model_fails_with_its_name(claude: SimulatedClaude) -> None:
    job = summary(model="claude-imaginary-1")

    with pytest.raises(JobFailed, match="claude-imaginary-1"):
        job.wait(timeout=20)
    assert job.state == "failed"


def test_a_pinned_prompt_version_and_a_model_override_are_used(claude: SimulatedClaude) -> None:
    job = analyze_document.enqueue(
        document_type="fable",
        focus_areas=["animals"],
        output_depth="summary",
        document=TEXT,
        prompt_version="1.0",
        model="claude-haiku-5-5",
    )
    job.wait(timeout=20)

    row, (call,) = details(job)
    assert (row["result_prompt_version"], call["prompt_version"]) == ("1.0", "1.0")
    assert call["model"] == "claude-haiku-5-5"
    assert claude.ledger()[0].model == "claude-haiku-5-5"


def test_the_same_idempotency_key_is_the_same_job(claude: SimulatedClaude) -> None:
    first = summary(marker="same", idempotency_key="order-1")
    second = summary(marker="same", idempotency_key="order-1")

    assert first.id == second.id
    first.wait(timeout=20)
    assert summary(marker="same", idempotency_key="order-1").id == first.id
    assert len(claude.ledger()) == 1
    with pytest.raises(IdempotencyConflict, match="order-1"):
        summary(marker="another", idempotency_key="order-1")


def test_a_scheduled_job_waits_for_its_time(claude: SimulatedClaude) -> None:
    later = summary(run_at=datetime.now(UTC) + timedelta(hours=1))
    soon = summary(run_at=datetime.now(UTC) + timedelta(seconds=0.5))

    soon.wait(timeout=20)

    row, _ = details(soon)
    assert row["started_at"] >= row["run_at"]
    assert later.state == "queued"


def by_sql(values: dict[str, Any]) -> Any:
    """A job enqueued by `enqueue_job`, which knows the tasks from the worker that was started."""
    with transaction() as connection:
        enqueue = text("SELECT enqueue_job('summarize_text', cast(:input AS jsonb))")
        return read_job(connection.execute(enqueue, {"input": json.dumps(values)}).scalar_one())


def test_a_job_enqueued_by_sql_is_run() -> None:
    job = by_sql({"text": TEXT, "max_words": 50, "audience": "everybody"})

    assert job.wait(timeout=20).summary
    with transaction() as connection:
        status = connection.execute(text("SELECT * FROM job_status(:id)"), {"id": job.id}).one()
    assert (status.state, status.calls) == ("succeeded", 1)
    assert status.output["summary"]
    assert status.cost_usd > 0


def test_an_unfit_input_by_sql_fails_at_the_claim_with_the_field_s_path() -> None:
    job = by_sql({"text": "x", "max_words": "many", "audience": "all", "more": 1})

    with pytest.raises(JobFailed, match=r"invalid_input: .*max_words: .*more: ") as caught:
        job.wait(timeout=20)
    assert "many" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "wrong"),
    [
        ('{"text": "x", "audience": "all", "max_words": 1e5000}', "max_words: inf is not JSON"),
        (
            '{"text": "x", "audience": [{"a": -1e99999}], "max_words": 50}',
            r"audience\.0\.a: -inf is",
        ),
        ('{"text": "x", "audience": "all", "max_words": 1e400}', "max_words: "),
        ('{"text": "x", "audience": "all", "max_words": 1e-5000}', "max_words: "),
        ('{"text": ' + "[" * 2000 + "]" * 2000 + "}", "nested too deep"),
        ('["text"]', "input is no object"),
        ('"text"', "input is no object"),
        ("null", "input is no object"),
    ],
)
def test_a_row_that_no_function_has_seen_fails_at_the_claim_if_it_is_unfit(
    claude: SimulatedClaude, document: str, wrong: str
) -> None:
    """Postgres takes numbers and depths that parsers do not: the worker must outlive them."""
    insert = text(
        "INSERT INTO jobs (task, input) VALUES ('summarize_text', cast(:input AS jsonb)) "
        "RETURNING id"
    )
    with transaction() as connection:
        job = read_job(connection.execute(insert, {"input": document}).scalar_one())

    with pytest.raises(JobFailed, match=rf"invalid_input: .*{wrong}"):
        job.wait(timeout=20)

    row, calls = details(job)
    assert (row["rescues"], row["attempt"], list(calls)) == (0, 1, [])
    assert claude.ledger() == []


def read_job(job_id: uuid.UUID) -> Any:
    from worker.engine.job import Job

    return Job(job_id, summarize_text)  # type: ignore[arg-type]


SEND_TASK = """
import sys
from celery import Celery
broker, task_id, text, times = sys.argv[1:]
app = Celery(broker=broker)
for _ in range(int(times)):
    app.send_task("summarize_text", task_id=task_id,
                  kwargs={"text": text, "max_words": 50, "audience": "everybody"},
                  headers={"user_id": "from-celery"})
"""


def send_task(environment: dict[str, str], task_id: str, content: str, times: int = 1) -> None:
    """From a process that imports nothing of ours, outside the project's folder."""
    subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            SEND_TASK,
            environment["REDIS_URL"],
            task_id,
            content,
            str(times),
        ],
        check=True,
        cwd="/",
        timeout=60,
    )


def test_any_celery_producer_can_enqueue_and_twice_sent_is_one_job(
    fleet_environment: dict[str, str], claude: SimulatedClaude, worker: Service
) -> None:
    task_id = uuid.uuid4()
    secret = f"confidential-{uuid.uuid4().hex}"

    send_task(fleet_environment, str(task_id), f"{TEXT} {secret}", times=3)

    job = read_job(task_id)
    wait_for_row(job)
    job.wait(timeout=20)
    row, _ = details(job)
    assert row["user_id"] == "from-celery"
    assert len(claude.ledger()) == 1
    assert secret not in worker.log_text()


def test_a_celery_message_with_an_unfit_input_is_kept_as_a_failed_job(
    fleet_environment: dict[str, str], eventually: Callable[..., None]
) -> None:
    send_task(fleet_environment, "not-a-uuid", "")

    failed = text("SELECT error FROM jobs WHERE error ->> 'type' = 'invalid_input' AND attempt = 0")

    def found() -> bool:
        with transaction() as connection:
            return connection.execute(failed).scalar_one_or_none() is not None

    eventually(found)
    with transaction() as connection:
        assert "text" in connection.execute(failed).scalar_one()["message"]


def test_a_message_for_an_unknown_task_is_kept_as_a_failed_job(
    fleet_environment: dict[str, str], eventually: Callable[..., None], worker: Service
) -> None:
    code = (
        "import sys; from celery import Celery; Celery(broker=sys.argv[1])"
        ".send_task('translate_text', kwargs={'text': 'confidential'})"
    )
    subprocess.run(
        [sys.executable, "-I", "-c", code, fleet_environment["REDIS_URL"]], check=True, timeout=60
    )
    kept = text("SELECT input, error FROM jobs WHERE task = 'translate_text' AND state = 'failed'")

    def found() -> bool:
        with transaction() as connection:
            return connection.execute(kept).one_or_none() is not None

    eventually(found)
    with transaction() as connection:
        row = connection.execute(kept).one()
    assert row.input == {"text": "confidential"}
    assert "summarize_text" in row.error["message"]
    assert "confidential" not in worker.log_text()


def wait_for_row(job: Any) -> None:
    from sandbox.process import wait_until

    def exists() -> bool:
        try:
            return bool(job.state)
        except JobNotFound:
            return False

    wait_until(exists, seconds=20, failure="the message never became a row")
