"""A job has ended: listeners hear of it at once, its webhook gets it, whichever worker dies."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from celery import Celery
from sqlalchemy import text

from sandbox.claude.client import SimulatedClaude
from sandbox.service import Service
from sandbox.stack import Stack
from tasks import summarize_text
from tests.integration.hook import Hook
from worker.engine.signing import signatures
from worker.storage.engine import transaction

SECRET = "whsec_" + "A" * 43 + "="

Start = Callable[..., Service]


@pytest.fixture
def hook() -> Iterator[Hook]:
    started = Hook()
    yield started
    started.close()


@pytest.fixture
def start(stack: Stack, fleet_environment: dict[str, str]) -> Iterator[Start]:
    """Starts workers that may post to loopback."""
    own = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    own |= {
        "CLAUDE_JOBS_WEBHOOK_SECRET": SECRET,
        "CLAUDE_JOBS_WEBHOOK_ALLOW_PRIVATE": "1",
        "CLAUDE_JOBS_WEBHOOK_OUTPUT": "1",
    }
    started: list[Service] = []

    def start(name: str, **more: str) -> Service:
        started.append(stack.start_worker(f"endings-{name}", **own, **more))
        return started[-1]

    yield start
    for service in started:
        service.stop()


def summary(**options: Any) -> Any:
    return summarize_text.enqueue(
        text=f"A fox and a dog. {uuid.uuid4().hex}", max_words=50, audience="all", **options
    )


def heard(listener: psycopg.Connection[Any], number: int) -> list[str]:
    """The ids of the next notifications."""
    return sorted(n.payload for n in listener.notifies(timeout=30, stop_after=number))


def test_listeners_and_webhooks_are_told_of_every_end(
    start: Start,
    hook: Hook,
    fleet_environment: dict[str, str],
    claude: SimulatedClaude,
    eventually: Callable[..., None],
) -> None:
    worker = start("a")
    with psycopg.connect(fleet_environment["DATABASE_URL"], autocommit=True) as listener:
        listener.execute("LISTEN job_finished")
        done = summary(webhook_url=hook.url)
        with transaction() as connection:
            unfit = connection.execute(
                text("SELECT enqueue_job('summarize_text', '{}', webhook_url => :url)"),
                {"url": hook.url},
            ).scalar_one()
        assert heard(listener, 2) == sorted([str(done.id), str(unfit)])

        claude.configure(latency=30)
        running, waiting = summary(webhook_url=hook.url), summary()
        eventually(lambda: {running.state, waiting.state} == {"running"})
        running.cancel()
        waiting.cancel()
        assert heard(listener, 2) == sorted([str(running.id), str(waiting.id)])

    eventually(lambda: len(hook.requests) == 3)
    posted = {body["data"]["id"]: body for _, _, body in hook.requests}
    assert {key: body["type"] for key, body in posted.items()} == {
        str(done.id): "job.succeeded",
        str(unfit): "job.failed",
        str(running.id): "job.cancelled",
    }
    assert posted[str(done.id)]["data"]["output"] == done.wait().model_dump()
    for (_, headers, _), body in zip(hook.requests, hook.bodies, strict=True):
        timestamp = int(headers["webhook-timestamp"])
        expected = signatures([SECRET], headers["webhook-id"], timestamp, body)
        assert headers["webhook-signature"] == expected
    assert hook.url not in worker.log_text()


def test_a_task_s_webhook_is_told_of_jobs_that_name_none(
    start: Start, hook: Hook, eventually: Callable[..., None]
) -> None:
    start("d")
    with transaction() as connection:  # as a worker that knows such a task does when it starts
        connection.execute(text("UPDATE tasks SET webhook_url = :url"), {"url": hook.url})
        told = connection.execute(text("SELECT enqueue_job('summarize_text', '{}')")).scalar_one()

    eventually(lambda: len(hook.requests) == 1)
    assert hook.requests[0][2]["data"]["id"] == str(told)


def test_a_task_s_webhook_is_told_of_what_celery_alone_has_sent(
    start: Start, hook: Hook, fleet_environment: dict[str, str], eventually: Callable[..., None]
) -> None:
    start("e", app="tests.acceptance.telling", TOLD_URL=hook.url)
    fit, unfit = str(uuid.uuid4()), str(uuid.uuid4())
    values = {"text": "A fox and a dog.", "max_words": 50, "audience": "all"}
    with Celery(broker=fleet_environment["REDIS_URL"], set_as_current=False) as producer:
        producer.send_task("summarize_text", kwargs=values, task_id=fit)
        producer.send_task("summarize_text", kwargs={}, task_id=unfit)

    eventually(lambda: len(hook.requests) == 2)
    told = {body["data"]["id"]: body["type"] for _, _, body in hook.requests}
    assert told == {fit: "job.succeeded", unfit: "job.failed"}


def test_what_a_worker_dies_over_another_one_posts(
    start: Start,
    hook: Hook,
    claude: SimulatedClaude,
    eventually: Callable[..., None],
) -> None:
    hook.answer = "hang"
    first = start("b")
    job = summary(webhook_url=hook.url)
    eventually(lambda: len(hook.requests) == 1)
    first.kill()
    hook.answer = "200"
    with transaction() as connection:  # instead of waiting for a minute
        connection.execute(text("UPDATE webhook_deliveries SET next_attempt_at = now()"))

    start("c")

    # Longer than a claim lasts: an attempt that comes to nothing on a busy machine has a next one.
    eventually(lambda: len(hook.requests) >= 2, seconds=90)
    assert [body["data"]["id"] for _, _, body in hook.requests] == [str(job.id)] * 2
    assert len({headers["webhook-id"] for _, headers, _ in hook.requests}) == 1
