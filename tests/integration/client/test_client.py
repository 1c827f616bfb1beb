"""What each method does at a real gateway, and what is told when something is wrong."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from pydantic import BaseModel

from claude_jobs_client import (
    AsyncJobsClient,
    Forbidden,
    InvalidRequest,
    Job,
    JobCancelled,
    JobFailed,
    JobNotEnded,
    JobsClient,
    NewJob,
    NotFound,
    OutputMismatch,
    Retries,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from sandbox.service import PROJECT
from tests.gateway import TICKET, Gateway
from tests.integration.client.conftest import NOBODY, Connect
from tests.integration.client.faulty import Faulty, says


class Ticket(BaseModel):
    subject: str
    body: str
    categories: set[str]


@dataclass
class Category:
    category: str


@pytest.fixture
def client(gateway: Gateway, connect: Connect) -> Any:
    return connect(gateway.url, gateway.key())


def test_a_job_is_enqueued_waited_for_and_read(gateway: Gateway, client: Any) -> None:
    at = datetime(2031, 1, 1, tzinfo=UTC)
    ticket = Ticket.model_validate(TICKET)
    job = client.enqueue(
        "classify_ticket",
        ticket,
        output=Category,
        user_id="ü 1",
        priority=7,
        run_at=at,
        deadline=at + timedelta(days=1),
    )
    assert (job.state, job.user_id, job.priority, job.ended) == ("queued", "ü 1", 7, False)
    with pytest.raises(JobNotEnded, match=r"is queued after 0\.1 s"):
        client.wait(job, timeout=0.1)

    threading.Timer(0.2, gateway.finish, [job.id]).start()
    assert client.wait(job, timeout=20) == Category("x")

    assert client.get(job).output == Category("x")
    assert client.get(str(job.id)).output == {"category": "x"}
    assert client.get(job.id).output_as(Category) == Category("x")
    assert "category" not in repr(client.get(job))
    with pytest.raises(OutputMismatch, match="output: Input should be a valid integer"):
        client.wait(job.id, output=int)
    events = list(client.stream(job))
    assert [event.kind for event in events] == ["result"]
    assert events[0].output == Category("x")


def test_jobs_that_did_not_succeed_say_so(gateway: Gateway, client: Any) -> None:
    failed, cancelled = (client.enqueue("classify_ticket", TICKET) for _ in range(2))
    gateway.finish(failed.id, "failed")
    with pytest.raises(JobFailed, match=f"classify_ticket {failed.id} failed: test: …") as caught:
        client.wait(failed)
    assert caught.value.job.error.type == "test"
    assert client.cancel(cancelled).state == "cancelled"
    with pytest.raises(JobCancelled):
        client.wait(cancelled)
    (event,) = client.stream(cancelled)
    assert (event.kind, event.state) == ("error", "cancelled")


def test_a_listing_goes_over_all_pages(gateway: Gateway, client: Any) -> None:
    became = client.enqueue_many(
        NewJob("classify_ticket", TICKET, user_id=f"u{n % 2}") for n in range(450)
    )
    listed = [job.id for job in client.list(user_id="u1", state="queued")]
    assert len(listed) == 225
    assert set(listed) == {item.id for item in became[1::2]}
    assert list(client.list(task="summarize_text")) == []


def test_tasks_have_their_schemas(client: Any) -> None:
    tasks = {task.name: task for task in client.tasks()}
    assert "categories" in tasks["classify_ticket"].input_schema["properties"]


def test_what_is_wrong_is_said_in_one_line(gateway: Gateway, connect: Connect) -> None:
    client = connect(gateway.url, gateway.key())
    with pytest.raises(InvalidRequest) as caught:
        client.enqueue("classify_ticket", {"subject": 1, "body": "b", "categories": ["a", "b"]})
    assert str(caught.value) == "POST /v1/jobs: input.subject: Input should be a valid string"
    assert caught.value.problem.status == 422
    with pytest.raises(InvalidRequest, match="There is no task 'nope'"):
        client.enqueue("nope", {})
    with pytest.raises(NotFound, match="There is no such job"):
        client.get(uuid4())
    with pytest.raises(Unauthorized):
        connect(gateway.url, NOBODY).tasks()
    with pytest.raises(Forbidden, match="enqueue"):
        connect(gateway.url, gateway.key(scopes=["read"])).enqueue("classify_ticket", TICKET)
    for value in (float("nan"), object(), "\ud800"):
        with pytest.raises(ValueError, match="classify_ticket cannot be sent as JSON: "):
            client.enqueue("classify_ticket", TICKET | {"body": value})
    for name in ("../x", "", "x\r\ny"):
        with pytest.raises(ValueError, match="a job is named by its id"):
            client.get(name)
    with pytest.raises(Unavailable, match="is base_url right, is it up"):
        connect("http://127.0.0.1:9", retries=Retries(tries=1)).tasks()


def test_answers_of_something_else_are_told(faulty: Faulty, connect: Connect) -> None:
    client = connect(faulty.url)
    faulty.then(
        says(200, b"<html>", Content_Type="text/html"),
        says(301, Location="https://elsewhere/v1/tasks"),
        says(404, b"nginx", Content_Type="text/html"),
        says(
            500,
            b'{"type":"urn:x","title":"t","status":500,"detail":"d"}',
            Content_Type="application/problem+json",
            X_Request_Id="abc",
        ),
    )
    for expected in ("Invalid JSON", "https://elsewhere", "text/html", "request id abc"):
        with pytest.raises(UnexpectedAnswer, match=expected):
            client.tasks()


@pytest.mark.parametrize(
    ("url", "key", "wrong"),
    [
        ("localhost:8000", NOBODY, "base_url"),
        ("", NOBODY, "base_url"),
        ("http://x", "secret\n", "key"),
        ("http://x", "http://y", "key"),
    ],
)
def test_arguments_that_cannot_be_right_are_named(url: str, key: str, wrong: str) -> None:
    for kind in (JobsClient, AsyncJobsClient):
        with pytest.raises(ValueError, match=wrong) as caught:
            kind(url, key)
        assert "secret" not in str(caught.value)


def test_a_client_of_ones_own_is_left_open(gateway: Gateway) -> None:
    with httpx2.Client() as http:
        with JobsClient(gateway.url + "/", gateway.key(), http=http) as client:
            assert client.tasks()
        assert not http.is_closed


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, Any]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(_plain(m)) for name, m in found if not name.startswith("_")}

    assert methods(JobsClient) == methods(AsyncJobsClient)


def _plain(method: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.annotation, p.kind) for p in inspect.signature(method).parameters.values()]


def test_it_loads_nothing_of_what_runs_the_jobs() -> None:
    program = (
        "import claude_jobs_client, sys; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert loaded >= {"claude_jobs_client", "httpx2", "pydantic"}
    others = {"worker", "tasks", "api", "sqlalchemy", "psycopg", "celery", "redis", "anthropic"}
    assert not loaded & others


def test_a_job_is_data(client: Any) -> None:
    job = client.enqueue("classify_ticket", TICKET)
    assert Job[dict[str, Any]].model_validate_json(job.model_dump_json()) == job
