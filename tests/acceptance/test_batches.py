"""The batch lane, end to end: a real worker, and Message Batches of the simulated Claude."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from anthropic import Anthropic
from sqlalchemy import text
from typer.testing import CliRunner

from sandbox.claude.client import SimulatedClaude
from tasks import summarize_text
from worker.claude.pricing import cost_usd
from worker.claude.reply import Tokens
from worker.cli.app import app
from worker.errors import JobFailed
from worker.settings import get_settings
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("worker")

TEXT = "The ferry leaves the northern quay at nine, and comes back when the tide allows it."
HOUR = 3600.0


@pytest.fixture(scope="module")
def fleet_environment(fleet_environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Batches are submitted as soon as somebody looks, and looked at again at once."""
    quick = {
        "CLAUDE_JOBS_BATCH_WAIT_MINUTES": "0",
        "CLAUDE_JOBS_BATCH_POLL_SECONDS": "0.2",
        "CLAUDE_JOBS_BATCH_CONFIRM_SECONDS": "3",
        "CLAUDE_JOBS_BATCH_MAX_REQUESTS": "25",
        "CLAUDE_JOBS_BATCH_MAX_BYTES": "250000",
        "CLAUDE_JOBS_LEASE_SECONDS": "2",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in quick.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        yield fleet_environment | quick


@pytest.fixture(autouse=True)
def settled(claude: SimulatedClaude, eventually: Callable[..., None]) -> Iterator[None]:
    """No batch of one test is left for the next."""
    claude.configure(batch_seconds=0.0)
    yield
    claude.clear_faults()
    claude.configure(batch_seconds=0.0)
    eventually(lambda: not open_batches(), "a batch is left open")


def rows(sql: str, **values: Any) -> list[Any]:
    with transaction() as connection:
        return list(connection.execute(text(sql), values).mappings())


def open_batches() -> list[Any]:
    return rows("SELECT * FROM batches WHERE state IN ('intent', 'submitted', 'ended')")


def summaries(number: int, mark: str = "", **options: Any) -> list[Any]:
    options = {"lane": "batch"} | options
    jobs = [
        summarize_text.new_job(
            {"text": f"{TEXT} {mark} {uuid.uuid4().hex}", "max_words": 50, "audience": "all"},
            **options,
        )
        for _ in range(number)
    ]
    return summarize_text.enqueue_many(jobs)


def states(jobs: Sequence[Any]) -> Counter[str]:
    ids = [job.id for job in jobs]
    found = rows(
        "SELECT state, count(*) AS jobs FROM jobs WHERE id = ANY(:ids) GROUP BY 1", ids=ids
    )
    return Counter({row["state"]: row["jobs"] for row in found})


def usage(jobs: Sequence[Any]) -> list[Any]:
    return rows(
        "SELECT * FROM usage WHERE job_id = ANY(:ids) ORDER BY id", ids=[job.id for job in jobs]
    )


def row_of(job: Any) -> Any:
    return rows("SELECT * FROM jobs WHERE id = :id", id=job.id)[0]


def of_results(jobs: Sequence[Any], column: str) -> list[Any]:
    ids = [job.id for job in jobs]
    found = rows(f"SELECT {column} AS value FROM results WHERE job_id = ANY(:ids)", ids=ids)
    return [row["value"] for row in found]


def test_jobs_go_through_batches_at_exactly_half_the_price(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    jobs = summaries(60, user_id="user-9")
    for job in jobs:
        assert job.wait(timeout=60).summary
    assert of_results(jobs, "source") == ["batch"] * 60
    calls = usage(jobs)
    assert len(calls) == 60
    billed = {entry.custom_id: entry for entry in claude.ledger()}
    assert len(billed) == 60
    for call in calls:
        entry = billed[f"{call['batch_id'].hex}-{call['id']}"]
        assert (call["outcome"], call["source"], call["complete"]) == ("ok", "batch", True)
        assert call["input_tokens"] == entry.usage.input_tokens
        assert call["output_tokens"] == entry.usage.output_tokens
        assert call["cost_usd"] == entry.cost_usd
        assert call["service_tier"] == "batch"
        tokens = Tokens(input=call["input_tokens"], output=call["output_tokens"])
        assert call["cost_usd"] * 2 == cost_usd(call["model"], tokens) == call["full_cost_usd"]
        assert entry.tag == "user-9"
    eventually(lambda: not open_batches())
    submitted = rows(
        "SELECT * FROM batches WHERE id IN (SELECT batch_id FROM usage WHERE id = :id)",
        id=calls[0]["id"],
    )
    assert submitted[0]["state"] == "ingested"
    ids = {call["batch_id"] for call in calls}
    kept = rows("SELECT * FROM batches WHERE id = ANY(:ids)", ids=list(ids))
    assert sum(row["requests"] for row in kept) == 60
    assert max(row["requests"] for row in kept) <= 25
    assert sum(row["cost_usd"] for row in kept) == sum(call["cost_usd"] for call in calls)
    job = row_of(jobs[0])
    assert (job["attempt"], job["lane"], job["error"]) == (1, "batch", None)


def test_large_batches_are_split_by_bytes_and_a_lone_large_job_goes_alone(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=0.5)
    small = summaries(2)
    for job in small:
        job.wait(timeout=60)
    text_of = "x " * 50_000
    jobs = [
        summarize_text.new_job(
            {"text": f"{number} {text_of}", "max_words": 50, "audience": "all"}, lane="batch"
        )
        for number in range(5)
    ]
    before = len(claude.batches())
    large = summarize_text.enqueue_many(jobs)
    for job in large:
        job.wait(timeout=60)
    made = claude.batches()[before:]
    assert sorted(len(each["custom_ids"]) for each in made) == [1, 2, 2]
    kept = rows(
        "SELECT bytes FROM batches WHERE anthropic_id = ANY(:ids)",
        ids=[each["id"] for each in made],
    )
    assert max(row["bytes"] for row in kept) <= 250_000


def test_each_kind_of_result_leads_to_its_end(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    marks = {
        "fenced": {"content": "fenced"},
        "wrong": {"content": "wrong_type"},
        "refused": {"stop_reason": "refusal"},
        "cutoff": {"stop_reason": "max_tokens", "content": "truncated"},
        "failing": {"status": 500},
        "overloaded": {"status": 529},
        "unfit": {"status": 400, "message": "no such thing"},
        "expiring": {"result": "expired"},
        "canceling": {"result": "canceled"},
    }
    claude.faults(
        *({"on": "batch_item", "match": f"mark-{mark} ", **fault} for mark, fault in marks.items())
    )
    jobs = {mark: summaries(1, f"mark-{mark} ")[0] for mark in marks}
    eventually(
        lambda: not states([*jobs.values()]).keys() - {"succeeded", "failed"}, "not all ended"
    )
    eventually(lambda: not claude.remaining_faults())
    outcomes = {
        mark: [(call["source"], call["outcome"]) for call in usage([job])]
        for mark, job in jobs.items()
    }
    # What was mended or done again was done at full price, and says so.
    assert outcomes == {
        "fenced": [("batch", "ok")],
        "wrong": [("batch", "invalid_output"), ("api", "ok")],
        "refused": [("batch", "refused")],
        "cutoff": [("batch", "truncated")],
        "failing": [("batch", "api_error"), ("api", "ok")],
        "overloaded": [("batch", "overloaded"), ("api", "ok")],
        "unfit": [("batch", "api_error")],
        "expiring": [("batch", "timeout"), ("api", "ok")],
        "canceling": [("batch", "interrupted"), ("api", "ok")],
    }
    ended = {mark: row_of(job) for mark, job in jobs.items()}
    assert {mark for mark, row in ended.items() if row["state"] == "failed"} == {
        "refused",
        "cutoff",
        "unfit",
    }
    assert ended["unfit"]["error"]["type"] == "invalid_request_error"
    assert ended["unfit"]["error"]["message"] == "no such thing"
    assert of_results([jobs["fenced"]], "source") == ["batch"]
    assert of_results([jobs["fenced"]], "warnings")[0][0]["check"] == "reply_format"
    assert of_results([jobs["expiring"]], "source") == ["api"]
    # A repair belongs to the attempt of its batch; what was never carried out costs none.
    assert {row["attempt"] for row in ended.values()} == {1}
    assert {ended[mark]["lane"] for mark in ("wrong", "failing", "expiring")} == {"interactive"}
    billed = sum((entry.cost_usd for entry in claude.ledger()), Decimal(0))
    recorded = sum((call["cost_usd"] or Decimal(0) for call in usage([*jobs.values()])), Decimal(0))
    assert billed == recorded


def test_an_input_or_a_version_that_cannot_be_run_fails_as_it_would_interactively(
    claude: SimulatedClaude,
) -> None:
    good = summaries(3)
    rows_inserted = rows(
        """
        INSERT INTO jobs (task, input, lane, prompt_version)
        VALUES ('summarize_text', '{"text": 3}', 'batch', NULL),
               ('no_such_task', '{}', 'batch', NULL),
               ('summarize_text', '{}', 'batch', '99.9') RETURNING id
        """
    )
    for job in good:
        job.wait(timeout=60)
    ids = [row["id"] for row in rows_inserted]
    found = rows("SELECT * FROM jobs WHERE id = ANY(:ids)", ids=ids)
    assert {row["state"] for row in found} == {"failed"}
    assert {row["error"]["type"] for row in found} == {
        "invalid_input",
        "unknown_task",
        "unknown_prompt_version",
    }
    assert not rows("SELECT id FROM usage WHERE job_id = ANY(:ids)", ids=ids)


def test_a_cancelled_job_ends_at_once_and_its_call_is_on_the_books(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(4)
    eventually(lambda: len(claude.batches()) == 1 and states(jobs)["running"] == 4)
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    assert jobs[0].cancel() == "cancelled"
    assert jobs[0].state == "cancelled"
    claude.advance_batches(HOUR)
    for job in jobs[1:]:
        job.wait(timeout=60)
    (call,) = usage([jobs[0]])
    entry = next(e for e in claude.ledger() if e.custom_id.endswith(f"-{call['id']}"))
    assert (call["outcome"], call["complete"]) == ("interrupted", True)
    assert call["cost_usd"] == entry.cost_usd > 0
    assert jobs[0].state == "cancelled"
    assert not of_results([jobs[0]], "source")


def test_a_batch_whose_jobs_were_all_cancelled_is_cancelled(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(3)
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    for job in jobs:
        job.cancel()
    eventually(lambda: claude.batches()[0]["request_counts"]["canceled"] == 3)
    eventually(lambda: not open_batches())
    assert {call["outcome"] for call in usage(jobs)} == {"interrupted"}
    assert states(jobs) == {"cancelled": 3}


def test_a_batch_that_is_cancelled_has_its_jobs_run_one_by_one(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(4)
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    claude.advance_batches(HOUR * 0.55)
    eventually(lambda: len(claude.ledger()) == 2, "two were not processed")
    [batch] = rows("SELECT id, anthropic_id FROM batches WHERE state = 'submitted'")
    run = CliRunner().invoke(app, ["batches", "cancel", batch["anthropic_id"]])
    assert run.exit_code == 0, run.output
    for job in jobs:
        job.wait(timeout=60)
    assert Counter(of_results(jobs, "source")) == {"batch": 2, "api": 2}
    shown = CliRunner().invoke(app, ["batches", "show", str(batch["id"])])
    assert "2 succeeded, 0 errored, 2 canceled, 0 expired" in shown.output
    assert "ingested" in shown.output


def test_a_near_deadline_is_interactive_and_a_far_one_a_batch(claude: SimulatedClaude) -> None:
    now = datetime.now(UTC)
    near = summaries(1, lane=None, deadline=now + timedelta(hours=25.9))
    far = summaries(1, lane=None, deadline=now + timedelta(hours=26.1))
    late = summaries(1, lane=None, deadline=now + timedelta(hours=30), run_at=now - timedelta(1))
    streamed = summaries(1, lane=None, deadline=now + timedelta(hours=40), stream=True)
    # Asked for, but too late when it is gathered.
    unsafe = summaries(1, lane="batch", deadline=now + timedelta(hours=2))
    for job in (*near, *far, *late, *streamed, *unsafe):
        job.wait(timeout=60)
    sources = [of_results(jobs, "source")[0] for jobs in (near, far, late, streamed, unsafe)]
    assert sources == ["api", "batch", "batch", "api", "api"]
    assert row_of(near[0])["deadline_at"] == now + timedelta(hours=25.9)
    assert row_of(unsafe[0])["lane"] == "interactive"


def test_an_expired_deadline_fails_what_comes_back(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=HOUR)
    (job,) = summaries(1, "mark-late ")
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    rows("UPDATE jobs SET deadline_at = now() WHERE id = :id RETURNING id", id=job.id)
    claude.faults({"on": "batch_item", "match": "mark-late ", "result": "expired"})
    claude.advance_batches(HOUR)
    with pytest.raises(JobFailed, match="batch_expired: the batch expired"):
        job.wait(timeout=60)


@pytest.mark.parametrize("lane", ["interactive", "batch"])
def test_a_job_whose_deadline_has_passed_before_it_is_run_makes_no_call(
    claude: SimulatedClaude, eventually: Callable[..., None], lane: str
) -> None:
    (inserted,) = rows(
        """
        INSERT INTO jobs (task, input, lane, deadline_at)
        VALUES ('summarize_text', '{"text": "x", "max_words": 50, "audience": "all"}', :lane,
                now() - interval '1 minute') RETURNING id
        """,
        lane=lane,
    )
    ended = "SELECT * FROM jobs WHERE id = :id AND finished_at IS NOT NULL"
    eventually(lambda: rows(ended, id=inserted["id"]))
    (job,) = rows(ended, id=inserted["id"])
    assert (job["state"], job["error"]["type"]) == ("failed", "deadline_passed")
    assert not claude.ledger()
    assert not rows("SELECT id FROM usage WHERE job_id = :id", id=inserted["id"])


def test_the_time_in_a_batch_does_not_count_towards_the_tasks_deadline(
    claude: SimulatedClaude,
) -> None:
    (job,) = summaries(1)
    job.wait(timeout=60)
    row = row_of(job)
    allowed = timedelta(hours=24, seconds=summarize_text.deadline)
    assert abs(row["deadline_at"] - row["started_at"] - allowed) < timedelta(seconds=5)


def test_results_that_are_gone_after_29_days_send_the_jobs_back(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(2)
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    claude.advance_batches(30 * 24 * HOUR)
    eventually(lambda: states(jobs)["succeeded"] == 2, "not done", seconds=90)
    assert of_results(jobs, "source") == ["api", "api"]
    alerts = rows("SELECT message FROM alerts WHERE kind = 'batch_failed'")
    assert any("its results are gone" in alert["message"] for alert in alerts)


def test_a_reply_that_no_worker_can_judge_fails_its_job_and_is_on_the_books(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=HOUR)
    lost, kept = summaries(2)
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    rows(
        "UPDATE usage SET prompt_version = '9.9' WHERE job_id = :id RETURNING id",
        id=lost.id,
    )
    claude.advance_batches(HOUR)
    kept.wait(timeout=60)
    with pytest.raises(JobFailed, match="unknown_prompt_version"):
        lost.wait(timeout=60)
    assert sum(call["cost_usd"] for call in usage([lost, kept])) == sum(
        entry.cost_usd for entry in claude.ledger()
    )


def test_a_batch_that_is_gone_sends_its_jobs_the_interactive_way_and_tells_people(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(2)
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    claude.faults({"on": "batch_get", "status": 404, "times": None})
    for job in jobs:
        job.wait(timeout=60)
    # What it may have cost stays on record.
    calls = sorted((call["source"], call["outcome"]) for call in usage(jobs))
    assert calls == [("api", "ok")] * 2 + [("batch", "lost")] * 2
    alerts = rows("SELECT message FROM alerts WHERE kind = 'batch_failed'")
    assert any("does not have it any more" in alert["message"] for alert in alerts)


def test_a_batch_that_does_not_end_is_reported_once(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=HOUR)
    jobs = summaries(1)
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    late = "UPDATE batches SET expires_at = now() - interval '2 h' WHERE state = 'submitted'"
    (batch,) = rows(f"{late} RETURNING id")
    eventually(lambda: rows("SELECT id FROM batches WHERE reported"))
    (alert,) = rows("SELECT * FROM alerts WHERE kind = 'batch_late'")
    assert str(batch["id"]) in alert["message"]
    claude.advance_batches(HOUR)
    jobs[0].wait(timeout=60)
    assert rows("SELECT count FROM alerts WHERE kind = 'batch_late'")[0]["count"] == 1


def test_a_pause_holds_the_lane_and_what_is_submitted_comes_home(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=HOUR)
    submitted = summaries(2)
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    assert CliRunner().invoke(app, ["pause", "task:summarize_text"]).exit_code == 0
    held = summaries(2)
    claude.advance_batches(HOUR)
    for job in submitted:
        job.wait(timeout=60)
    assert states(held) == {"queued": 2}
    assert CliRunner().invoke(app, ["resume", "task:summarize_text"]).exit_code == 0
    eventually(lambda: rows("SELECT id FROM batches WHERE state = 'submitted'"))
    claude.advance_batches(HOUR)
    for job in held:
        job.wait(timeout=60)


def test_a_refused_batch_sends_its_jobs_the_interactive_way_and_tells_people(
    claude: SimulatedClaude,
) -> None:
    claude.faults({"on": "batch_create", "status": 403, "message": "no batches here"})
    jobs = summaries(3)
    for job in jobs:
        job.wait(timeout=60)
    assert of_results(jobs, "source") == ["api"] * 3
    assert [call["source"] for call in usage(jobs)] == ["api"] * 3
    alerts = rows("SELECT message FROM alerts WHERE kind = 'batch_failed'")
    assert any("refused a batch of 3 requests" in alert["message"] for alert in alerts)


def test_a_batch_is_found_though_it_is_not_there_at_first(claude: SimulatedClaude) -> None:
    claude.faults({"on": "batch_get", "status": 404, "times": 2})
    jobs = summaries(3)
    for job in jobs:
        job.wait(timeout=60)
    assert of_results(jobs, "source") == ["batch"] * 3


@pytest.mark.parametrize(
    "fault",
    [
        {"cut": True},
        {"status": 500, "billed": True},
        {"status": 200, "billed": True, "body": "<html>"},
    ],
    ids=["cut", "500", "garbled"],
)
def test_a_lost_answer_to_create_neither_loses_nor_doubles_the_batch(
    claude: SimulatedClaude, fault: dict[str, Any]
) -> None:
    claude.faults({"on": "batch_create", **fault})
    jobs = summaries(3)
    for job in jobs:
        job.wait(timeout=60)
    assert len(claude.batches()) == 1
    assert of_results(jobs, "source") == ["batch"] * 3
    assert len(claude.ledger()) == 3


def test_a_batch_that_never_came_to_be_is_gathered_again(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    """Another one of the same size, of somebody else's, is not taken for it."""
    claude.configure(batch_seconds=0.2)
    foreign = Anthropic(api_key="any", base_url=claude.url, max_retries=0)
    with foreign:
        asked: Any = [
            {
                "custom_id": f"other-{number}",
                "params": {
                    "model": "claude-haiku-5-5",
                    "max_tokens": 50,
                    "messages": [{"role": "user", "content": "Hello"}],
                },
            }
            for number in range(3)
        ]
        foreign.messages.batches.create(requests=asked)
    claude.faults({"on": "batch_create", "status": 502})  # not billed: it does not exist
    jobs = summaries(3)
    for job in jobs:
        job.wait(timeout=60)
    assert len(claude.batches()) == 2
    assert of_results(jobs, "source") == ["batch"] * 3
    given_up = rows("SELECT error FROM batches WHERE state = 'failed'")
    assert any("never created" in row["error"] for row in given_up)


def test_results_that_break_off_are_read_again(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.faults(
        {"on": "batch_results", "cut": True, "at": {"bytes": 3000}},
        {"on": "batch_results", "eof": True, "at": {"bytes": 5000}},
    )
    jobs = summaries(20)
    for job in jobs:
        job.wait(timeout=90)
    assert len(usage(jobs)) == 20
    assert of_results(jobs, "source") == ["batch"] * 20


def test_bad_ids_are_one_line(claude: SimulatedClaude) -> None:
    for name, says in (("nonsense", "is no batch id"), (str(uuid.uuid4()), "no batch")):
        for command in ("show", "cancel"):
            run = CliRunner().invoke(app, ["batches", command, name])
            assert run.exit_code != 0
            assert says in str(run.exception)
