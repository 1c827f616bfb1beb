"""Enqueueing over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from api.resources import JobResource
from tests.gateway import BODY, TICKET, Gateway, enqueued, problem
from worker.engine.prompts import get_prompts
from worker.storage.budgets import Which, put, remove
from worker.storage.engine import transaction


def test_a_job_is_accepted_and_can_be_read(gateway: Gateway, client: httpx2.Client) -> None:
    answer = client.post(
        "/v1/jobs",
        json=BODY
        | {
            "user_id": "ü 1",
            "priority": 7,
            "lane": "batch",
            "run_at": "2031-01-01T00:00:00+01:00",
            "deadline": "2031-01-09T00:00:00+01:00",
            "prompt_version": "1.0",
            "model": "claude-x",
            "max_attempts": 2,
            "stream": True,
            "cache": False,
            "webhook_url": "https://example.com/hook",
        },
    )

    assert answer.status_code == 202
    job = answer.json()
    JobResource.model_validate_json(answer.content)
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert client.get(answer.headers["location"]).json() == job
    (row,) = gateway.query("SELECT * FROM jobs WHERE id = :id", id=job["id"])
    assert row["input"] == TICKET
    assert row["service"].startswith("s-")
    assert (row["lane"], row["priority"], row["webhook_url"]) == (
        "batch",
        7,
        "https://example.com/hook",
    )
    assert (row["cache"], row["waits_for"]) == (False, None)
    assert row["run_at"].isoformat() == "2030-12-31T23:00:00+00:00"
    assert row["deadline_at"].isoformat() == "2031-01-08T23:00:00+00:00"


def test_a_deadline_that_is_far_enough_away_chooses_the_batch_lane(
    gateway: Gateway, client: httpx2.Client
) -> None:
    for deadline, lane in (("2031-01-01T00:00:00Z", "batch"), (None, "interactive")):
        job = client.post("/v1/jobs", json=BODY | {"deadline": deadline}).json()
        (row,) = gateway.query("SELECT lane FROM jobs WHERE id = :id", id=job["id"])
        assert row["lane"] == lane


def test_a_job_says_which_budget_holds_it(gateway: Gateway, client: httpx2.Client) -> None:
    user = f"user-{uuid4()}"
    budget = Which("user", user, "month")
    with transaction(gateway.engine) as connection:
        put(connection, budget, Decimal(0), hard=True, alert_at=[], by="test")
    held, other = enqueued(client, user_id=user), enqueued(client)
    later = enqueued(client, user_id=user, run_at="2999-01-01T00:00:00Z")

    shown = client.get(held["links"]["self"]).json()
    assert (shown["state"], shown["held_by"]) == ("queued", f"user:{user} per month")
    assert shown["held_until"].endswith("-01T00:00:00Z")
    listed = {job["id"]: job["held_by"] for job in client.get("/v1/jobs").json()["jobs"]}
    assert listed == {held["id"]: shown["held_by"], other["id"]: None, later["id"]: None}

    with transaction(gateway.engine) as connection:
        assert remove(connection, budget)
    assert client.get(held["links"]["self"]).json()["held_by"] is None


def test_a_tasks_own_route_takes_the_same_without_its_name(client: httpx2.Client) -> None:
    answer = client.post("/v1/tasks/classify_ticket/jobs", json={"input": TICKET, "priority": 1})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["task"], job["priority"]) == ("classify_ticket", 1)
    assert client.get(f"/v1/tasks/classify_ticket/jobs/{job['id']}").json() == job
    problem(client.post("/v1/tasks/nope/jobs", json={"input": {}}), 404, "not-found")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ([], "(all)"),
        ({}, "task"),
        (BODY | {"input": 1}, "input"),
        (BODY | {"task": "nope"}, "task"),
        (BODY | {"task": None}, "task"),
        (BODY | {"extra": 1}, "extra"),
        (BODY | {"input": TICKET | {"subject": 1}}, "input.subject"),
        (BODY | {"input": TICKET | {"surprise": 1}}, "input.surprise"),
        (BODY | {"input": TICKET | {"categories": ["one"]}}, "input.categories"),
        (BODY | {"input": TICKET | {"body": "a\x00b"}}, "input.body"),
        (BODY | {"user_id": "a\x00b"}, "user_id"),
        (BODY | {"user_id": "x" * 257}, "user_id"),
        (BODY | {"priority": -1}, "priority"),
        (BODY | {"priority": 1.5}, "priority"),
        (BODY | {"priority": True}, "priority"),
        (BODY | {"priority": 10**30}, "priority"),
        (BODY | {"lane": "fast"}, "lane"),
        (BODY | {"run_at": "tomorrow"}, "run_at"),
        (BODY | {"run_at": "2030-01-01T00:00:00"}, "run_at"),
        (BODY | {"run_at": "9999-12-31T23:59:59-23:59"}, "run_at"),
        (BODY | {"run_at": "0001-01-01T00:00:00+23:59"}, "run_at"),
        (BODY | {"run_at": 1893456000}, "run_at"),
        (BODY | {"deadline": "2030-01-01T00:00:00"}, "deadline"),
        (BODY | {"deadline": "2020-01-01T00:00:00Z"}, None),
        (BODY | {"prompt_version": "9.9"}, "prompt_version"),
        (BODY | {"prompt_version": "1.0@nonsense"}, "prompt_version"),
        (BODY | {"prompt_version": "1.0@" + "0" * 12}, "prompt_version"),
        (BODY | {"prompt_version": "9.9@" + "0" * 64}, "prompt_version"),
        (BODY | {"max_attempts": 0}, "max_attempts"),
        (BODY | {"stream": "yes"}, "stream"),
        (BODY | {"webhook_url": "javascript:alert(1)"}, "webhook_url"),
        (BODY | {"webhook_url": "http://:80/"}, "webhook_url"),
        (BODY | {"cache": "no"}, "cache"),
        (BODY | {"idempotency_key": "a\r\nb"}, "idempotency_key"),
        (BODY | {"idempotency_key": ""}, "idempotency_key"),
    ],
)
def test_what_does_not_fit_is_named(client: httpx2.Client, body: Any, path: str | None) -> None:
    answer = client.post("/v1/jobs", json=body)
    told = problem(
        answer, 422, "unknown-task" if body == BODY | {"task": "nope"} else "invalid-input"
    )
    assert path is None or path in [error["path"] for error in told["errors"]]
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_the_same_idempotency_key_is_the_same_job(gateway: Gateway, client: httpx2.Client) -> None:
    first = client.post("/v1/jobs", json=BODY, headers={"idempotency-key": '"order 4711"'})
    again = client.post("/v1/jobs", json=BODY, headers={"idempotency-key": "order 4711"})
    inside = client.post("/v1/jobs", json=BODY | {"idempotency_key": "order 4711"})
    typed = client.post(
        "/v1/tasks/classify_ticket/jobs",
        json={"input": TICKET},
        headers={"idempotency-key": "order 4711"},
    )
    assert first.status_code == 202
    for other in (again, inside, typed):
        assert other.status_code == 200
        assert other.headers["idempotency-replayed"] == "true"
        assert other.json() == first.json()

    gateway.finish(first.json()["id"])
    assert client.post("/v1/jobs", json=BODY | {"idempotency_key": "order 4711"}).json()["output"]

    changed = BODY | {"input": TICKET | {"body": "another"}}
    answer = client.post("/v1/jobs", json=changed, headers={"idempotency-key": "order 4711"})
    assert first.json()["id"] not in problem(answer, 409, "idempotency-conflict")["detail"]

    # Another task's keys are others.
    summary = {"task": "summarize_text", "input": {"text": "t", "max_words": 50, "audience": "a"}}
    other = client.post("/v1/jobs", json=summary, headers={"idempotency-key": "order 4711"})
    assert other.status_code == 202
    both = client.post(
        "/v1/jobs", json=BODY | {"idempotency_key": "a"}, headers={"idempotency-key": "b"}
    )
    problem(both, 422, "invalid-input")


def test_a_key_that_is_sent_many_times_at_once_is_one_job(gateway: Gateway) -> None:
    key = gateway.key()

    def send(number: int) -> tuple[int, str]:
        headers = {"authorization": f"Bearer {key}", "idempotency-key": f"key-{number % 3}"}
        answer = httpx2.post(gateway.url + "/v1/jobs", json=BODY, headers=headers)
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(36)))
    assert sorted(status for status, _ in answers) == [200] * 33 + [202] * 3
    assert len({job_id for _, job_id in answers}) == 3


def test_a_task_that_is_none_is_named(client: httpx2.Client) -> None:
    body = BODY | {"task": "no\r\nsuch<task>" + "x" * 180}
    told = problem(client.post("/v1/jobs", json=body), 422, "unknown-task")
    assert told["errors"][0]["path"] == "task"
    for text in (told["detail"], told["errors"][0]["problem"]):
        assert "There is no task 'no\\r\\nsuch<task>xxx" in text
        assert len(text) < 250


def test_a_version_that_was_pinned_by_its_content_is_known(
    gateway: Gateway, client: httpx2.Client
) -> None:
    """By the gateway's folder or by the database alone, as for `enqueue_job`."""
    prompt = get_prompts().get("classify_ticket", "1.0")
    stored = gateway.query(
        "INSERT INTO prompt_versions (prompt, version, sha256, content) "
        "VALUES ('classify_ticket', '0.7', :sha256, '{}') RETURNING sha256",
        sha256=uuid4().hex * 2,
    )[0]["sha256"]
    pins = [f"1.0@{prompt.sha256[:12]}", f"0.7@{stored[:20]}", f"0.7@{'0' * 20}", "1.0"]

    statuses = [
        client.post("/v1/jobs", json=BODY | {"prompt_version": pin}).status_code for pin in pins
    ]
    batch = client.post(
        "/v1/jobs/batch", json={"jobs": [BODY | {"prompt_version": pin} for pin in pins]}
    ).json()

    assert statuses == [202, 202, 422, 202]
    assert ["problem" in item for item in batch["jobs"]] == [False, False, True, False]
    assert batch["jobs"][2]["problem"]["errors"][0]["path"] == "prompt_version"
