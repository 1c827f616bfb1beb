"""Results that are served again, and to whom they are not, with a real worker."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from sandbox.service import Service
from sandbox.stack import Stack
from tasks import analyze_document, classify_ticket, extract_entities, summarize_text
from worker.cli.app import app
from worker.engine import releasing
from worker.engine.registry import load_registry
from worker.errors import JobFailed
from worker.storage import read, rescue
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(scope="module")
def fleet_environment(fleet_environment: dict[str, str]) -> dict[str, str]:
    return fleet_environment | {"CLAUDE_JOBS_CACHE_SECONDS": "600"}


@pytest.fixture(scope="module")
def worker(stack: Stack, fleet_environment: dict[str, str]) -> Iterator[Service]:
    extra = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    service = stack.start_worker("cache", app="tests.acceptance.sharing", **extra)
    yield service
    service.stop()


@pytest.fixture
def marker() -> str:
    """Makes the inputs of a test its own."""
    return uuid.uuid4().hex


def values(marker: str) -> dict[str, Any]:
    return {"text": f"The fox and the dog. {marker}", "max_words": 50, "audience": "everybody"}


def summary(marker: str, **options: Any) -> Any:
    return summarize_text.enqueue(**values(marker), **options)


def ticket(marker: str, **options: Any) -> Any:
    fields = {"subject": "Invoice", "body": marker, "categories": ["billing", "other"]}
    return classify_ticket.enqueue(**fields, **options)


def details(job: Any) -> tuple[Any, Any]:
    with transaction() as connection:
        return read.job_details(connection, job.id)


def execute(statement: str, **parameters: Any) -> Any:
    with transaction() as connection:
        return connection.execute(text(statement), parameters)


def asked(claude: SimulatedClaude) -> int:
    return len(claude.ledger())


def test_an_identical_job_gets_the_result_without_a_call(
    claude: SimulatedClaude, marker: str, worker: Service, eventually: Callable[..., None]
) -> None:
    first = summary(marker, user_id="ann")
    output = first.wait(20)
    second = summary(marker, user_id="bob")

    assert second.wait(20) == output

    assert asked(claude) == 1
    original, (paid,) = details(first)
    row, (served,) = details(second)
    assert (original["source"], original["source_job_id"]) == ("api", None)
    assert (row["source"], row["source_job_id"]) == ("cache", first.id)
    assert (row["state"], row["attempt"], row["claim_token"]) == ("succeeded", 1, None)
    assert row["result_model"] == original["result_model"]
    assert {
        name: served[name]
        for name in ("source", "source_job_id", "outcome", "complete", "coalesced", "user_id")
    } == {
        "source": "cache",
        "source_job_id": first.id,
        "outcome": "ok",
        "complete": True,
        "coalesced": False,
        "user_id": "bob",
    }
    assert served["cost_usd"] == 0
    assert served["full_cost_usd"] == paid["full_cost_usd"] > 0
    assert [served[name] for name in ("request_id", "latency_ms", "stop_reason")] == [None] * 3
    assert served["input_tokens"] + served["output_tokens"] == 0
    assert served["prompt_sha256"] == paid["prompt_sha256"]
    eventually(lambda: "job succeeded from the cache" in worker.log_text())
    assert execute("SELECT count(*) FROM request_leaders").scalar_one() == 0


def test_what_was_served_does_not_make_the_window_longer(
    claude: SimulatedClaude, marker: str
) -> None:
    first = summary(marker)
    first.wait(20)
    age = (
        "UPDATE results SET created_at = created_at - make_interval(secs => :by) WHERE job_id = :id"
    )
    execute(age, by=590, id=first.id)
    second = summary(marker)
    second.wait(20)
    assert (asked(claude), details(second)[0]["source"]) == (1, "cache")
    execute(age, by=11, id=first.id)

    third = summary(marker)
    third.wait(20)

    assert (asked(claude), details(third)[0]["source"]) == (2, "api")


@pytest.mark.parametrize("earlier", [True, False])
def test_without_cache_claude_is_asked_and_nobody_is_served(
    claude: SimulatedClaude, marker: str, earlier: bool
) -> None:
    first = summary(marker, cache=not earlier)
    first.wait(20)
    summary(marker, cache=earlier).wait(20)

    assert asked(claude) == 2
    assert details(first)[0]["source"] == "api"


def test_sql_and_celery_producers_can_do_without_it(
    claude: SimulatedClaude,
    marker: str,
    fleet_environment: dict[str, str],
    eventually: Callable[..., None],
) -> None:
    summary(marker).wait(20)
    enqueue = "SELECT enqueue_job('summarize_text', cast(:input AS jsonb), cache => {})"
    document = summarize_text.new_job(values(marker)).input
    ids = [
        execute(enqueue.format(cache), input=document).scalar_one() for cache in ("true", "false")
    ]
    for headers in ("{}", "{'cache': False}"):
        ids.append(uuid.uuid4())
        script = f"""
from celery import Celery
Celery(broker={fleet_environment["REDIS_URL"]!r}).send_task(
    "summarize_text", kwargs={values(marker)!r}, task_id={str(ids[-1])!r}, headers={headers})"""
        subprocess.run([sys.executable, "-I", "-c", script], check=True, timeout=60)

    def sources() -> list[Any]:
        rows = execute("SELECT job_id, source FROM results WHERE job_id = ANY(:ids)", ids=ids)
        found = {row.job_id: row.source for row in rows}
        return [found.get(job_id) for job_id in ids]

    eventually(lambda: sources() == ["cache", "api", "cache", "api"], str(sources()))
    assert asked(claude) == 3


def test_a_task_keeps_results_to_their_users(claude: SimulatedClaude, marker: str) -> None:
    for user in ("ann", "ann", "bob", None, None):
        ticket(marker, user_id=user).wait(20)

    assert asked(claude) == 3


def test_a_task_that_caches_nothing_asks_each_time(claude: SimulatedClaude, marker: str) -> None:
    for _ in range(2):
        extract_entities.enqueue(text=marker, entity_types=["person"]).wait(20)

    assert asked(claude) == 2


def test_no_service_is_served_what_another_one_paid_for(
    claude: SimulatedClaude, marker: str, eventually: Callable[..., None]
) -> None:
    document = summarize_text.new_job(values(marker)).input
    insert = """
        INSERT INTO jobs (task, input, service)
        VALUES ('summarize_text', cast(:input AS jsonb), :service) RETURNING id"""
    find = "SELECT source FROM results WHERE job_id = :id"
    sources = []
    for service in ("shop", "shop", "bank", None, None):
        job_id = execute(insert, input=document, service=service).scalar_one()
        eventually(lambda job_id=job_id: execute(find, id=job_id).scalar() is not None)
        sources.append(execute(find, id=job_id).scalar_one())

    assert sources == ["api", "cache", "api", "api", "cache"]
    assert asked(claude) == 3


def test_another_version_or_model_is_another_request(claude: SimulatedClaude, marker: str) -> None:
    fields = {"document_type": "fable", "focus_areas": ["foxes"], "output_depth": "summary"}
    for options in (
        {"prompt_version": "1.0"},
        {"prompt_version": "1.1"},
        {"model": "claude-opus-5-5"},
        {"prompt_version": "1.0"},
    ):
        analyze_document.enqueue(**fields, document=marker, **options).wait(20)

    assert asked(claude) == 3


def test_a_release_or_a_rollback_makes_it_another_request(
    claude: SimulatedClaude, marker: str
) -> None:
    fields = {"document_type": "fable", "focus_areas": ["foxes"], "output_depth": "summary"}

    def source() -> tuple[str, str]:
        job = analyze_document.enqueue(**fields, document=marker)
        job.wait(20)
        row, _ = details(job)
        return row["source"], row["result_prompt_version"]

    prompts = load_registry().prompts
    with transaction() as connection:
        releasing.release(connection, prompts, "analyze_document", {"1.0": 10_000}, by="ada")
    assert [source(), source()] == [("api", "1.0"), ("cache", "1.0")]
    with transaction() as connection:
        releasing.release(connection, prompts, "analyze_document", {"1.1": 10_000}, by="ada")
    assert [source(), source()] == [("api", "1.1"), ("cache", "1.1")]
    with transaction() as connection:
        releasing.rollback(connection, prompts, "analyze_document", by="ada")
    assert source() == ("cache", "1.0")
    assert asked(claude) == 2


@pytest.mark.parametrize("output", ['{"nothing": "that fits"}', '{"summary": ""}'])
def test_a_result_that_would_be_accepted_no_longer_is_not_served(
    claude: SimulatedClaude, marker: str, output: str
) -> None:
    first = summary(marker)
    good = first.wait(20)
    change = "UPDATE results SET output = cast(:output AS jsonb) WHERE job_id = :id"
    execute(change, output=output, id=first.id)

    assert type(summary(marker).wait(20)) is type(good)

    assert asked(claude) == 2


def test_what_was_pruned_is_a_miss(claude: SimulatedClaude, marker: str) -> None:
    first = summary(marker)
    first.wait(20)
    second = summary(marker)
    second.wait(20)
    execute("UPDATE jobs SET finished_at = now() - interval '2 days' WHERE id = :id", id=first.id)
    with transaction() as connection:
        assert rescue.prune(connection, "succeeded", older_than=86400) == 1

    summary(marker).wait(20)

    assert asked(claude) == 2
    assert details(second)[0]["output"] is not None


def test_a_failure_is_not_cached(claude: SimulatedClaude, marker: str) -> None:
    claude.faults(Fault(match=marker, stop_reason="refusal", times=1))
    with pytest.raises(JobFailed):
        summary(marker).wait(20)

    summary(marker).wait(20)

    assert asked(claude) == 2


def test_warnings_are_served_along(claude: SimulatedClaude, marker: str) -> None:
    claude.faults(Fault(match=marker, content="fenced", times=1))
    first, second = summary(marker), None
    first.wait(20)
    second = summary(marker)
    second.wait(20)

    assert asked(claude) == 1
    assert details(second)[0]["warnings"] == details(first)[0]["warnings"] != []


def test_a_streamed_job_that_is_served_has_its_result_at_once(
    claude: SimulatedClaude, marker: str
) -> None:
    output = summary(marker).wait(20)

    (event,) = list(summary(marker, stream=True).stream(20))

    assert event.output == output
    assert asked(claude) == 1


def test_show_says_where_a_result_came_from(marker: str, claude: SimulatedClaude) -> None:
    first = summary(marker)
    first.wait(20)
    second = summary(marker)
    second.wait(20)
    unserved = summary(marker, cache=False)

    def shown(job: Any, *options: str) -> str:
        result = CliRunner().invoke(app, ["show", str(job.id), *options])
        assert result.exit_code == 0
        return result.output

    said = shown(second)
    assert f"from job {first.id}, without a call" in said
    assert "cached" in said
    assert "from job" not in shown(first)
    assert "not for this job" in shown(unserved)
    assert marker in shown(second, "--prompt")


def test_statistics_of_calls_leave_out_what_was_served(marker: str, worker: Service) -> None:
    ids = []
    for _ in range(3):
        ids.append(summary(marker, user_id=marker))
        ids[-1].wait(20)

    rows = execute(
        "SELECT source, inspected FROM usage WHERE user_id = :user ORDER BY id", user=marker
    ).all()
    assert [row.source for row in rows] == ["api", "cache", "cache"]
    assert [row.inspected for row in rows[1:]] == [True, True]
    status = "SELECT calls FROM job_status(:id)"
    assert [execute(status, id=job.id).scalar_one() for job in ids] == [1, 0, 0]
    seen = "SELECT sum(calls) FROM prompt_performance WHERE prompt = 'summarize_text'"
    made = "SELECT count(*) FROM usage WHERE prompt = 'summarize_text' AND source <> 'cache'"
    assert execute(seen).scalar_one() == execute(made).scalar_one()
