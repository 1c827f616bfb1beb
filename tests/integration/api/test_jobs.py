"""Enqueueing, reading, listing, waiting and cancelling over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from api.resources import BatchOutcome, JobList, JobResource, TaskList
from tests.gateway import BODY, PATIENCE, TICKET, Gateway, problem
from worker.engine.prompts import get_prompts
from worker.storage.budgets import Which, put, remove
from worker.storage.engine import transaction


@pytest.fixture
def client(gateway: Gateway) -> Any:
    with gateway.client() as client:
        yield client


def enqueued(client: httpx2.Client, **options: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=BODY | options)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


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


def test_a_batch_tells_of_each(client: httpx2.Client) -> None:
    bodies = [
        BODY,
        {"task": "nope", "input": {}},
        BODY | {"idempotency_key": "same"},
        BODY | {"idempotency_key": "same"},
        BODY | {"idempotency_key": "same", "input": TICKET | {"body": "another"}},
        "no object",
        BODY | {"input": {}},
    ]
    answer = client.post("/v1/jobs/batch", json={"jobs": bodies})

    assert answer.status_code == 200
    outcome = BatchOutcome.model_validate_json(answer.content)
    assert (outcome.enqueued, outcome.refused) == (3, 4)
    kinds = [item.problem and item.problem.type.rpartition(":")[2] for item in outcome.jobs]
    assert kinds == [
        None,
        "unknown-task",
        None,
        None,
        "idempotency-conflict",
        "invalid-input",
        "invalid-input",
    ]
    assert [item.created for item in outcome.jobs[2:4]] == [True, False]
    assert outcome.jobs[2].id == outcome.jobs[3].id
    listed = {job["id"] for job in client.get("/v1/jobs").json()["jobs"]}
    assert listed == {str(outcome.jobs[0].id), str(outcome.jobs[2].id)}


def test_a_batch_can_be_sent_again_as_it_is(client: httpx2.Client) -> None:
    jobs = {"jobs": [BODY | {"priority": n % 9} for n in range(2000)]}
    once, twice = (
        client.post("/v1/jobs/batch", json=jobs, headers={"idempotency-key": "import-7"}).json()
        for _ in range(2)
    )
    assert (once["enqueued"], once["refused"]) == (2000, 0)
    assert [job["id"] for job in once["jobs"]] == [job["id"] for job in twice["jobs"]]
    assert not any(job["created"] for job in twice["jobs"])


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


@pytest.mark.parametrize("body", [{}, {"jobs": []}, {"jobs": {}}, {"jobs": [BODY], "x": 1}, 1])
def test_a_batch_is_a_list_of_jobs(client: httpx2.Client, body: Any) -> None:
    problem(client.post("/v1/jobs/batch", json=body), 422, "invalid-input")


def test_a_batch_has_ten_thousand_jobs_at_most(client: httpx2.Client) -> None:
    body = {"jobs": [1] * 10_001}
    assert (
        "10,000"
        in problem(client.post("/v1/jobs/batch", json=body), 422, "invalid-input")["detail"]
    )


def test_jobs_are_listed_page_by_page(gateway: Gateway, client: httpx2.Client) -> None:
    ids = [enqueued(client, user_id=f"u{n % 2}")["id"] for n in range(5)]
    gateway.finish(ids[0])

    def pages(**wanted: Any) -> list[str]:
        found, cursor = [], None
        while True:
            given = wanted | ({"cursor": cursor} if cursor else {})
            answer = client.get("/v1/jobs", params={"limit": 2} | given)
            page = JobList.model_validate_json(answer.content)
            found += [str(job.id) for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                return found

    assert pages() == ids[::-1]
    assert pages(user_id="u1") == [ids[3], ids[1]]
    assert pages(state="succeeded") == ids[:1]
    assert pages(task="summarize_text") == []
    for wrong in (
        {"cursor": "nonsense"},
        {"state": "lost"},
        {"limit": 0},
        {"limit": 501},
        {"user_id": "a\x00b"},
    ):
        problem(client.get("/v1/jobs", params=wrong), 422, "invalid-input")


def test_a_job_is_waited_for(
    gateway: Gateway, client: httpx2.Client, eventually: Callable[..., None]
) -> None:
    """Until it ends: the time that is asked for is longer than the client's patience."""
    job_id = enqueued(client)["id"]
    url = f"/v1/jobs/{job_id}?wait={PATIENCE * 2}"
    assert client.get(f"/v1/jobs/{job_id}?wait=0.3").json()["state"] == "queued"

    def wait() -> Any:
        while (answer := client.get(url)).status_code == 429:  # the question below had its place
            pass
        return answer.json()

    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(wait) for _ in range(5)]
        # No place is left: all of them wait.
        eventually(lambda: client.get(f"/v1/jobs/{job_id}?wait=0.01").status_code == 429)
        assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"
        assert not any(each.done() for each in waiting)
        gateway.finish(job_id)
        job, *others = [each.result() for each in waiting]

    assert others == [job] * 4
    assert (job["state"], job["output"]) == ("succeeded", {"category": "x"})
    assert (job["prompt_version"], job["model"]) == ("1.0", "m")
    assert client.get(url).json() == job


def test_an_enqueued_job_can_be_waited_for_at_once(client: httpx2.Client) -> None:
    answer = client.post("/v1/jobs?wait=0.1", json=BODY)
    assert answer.status_code == 202
    assert answer.json()["state"] == "queued"
    for wrong in ("-1", "nan", "inf", "x"):
        problem(client.post(f"/v1/jobs?wait={wrong}", json=BODY), 422, "invalid-input")


def test_a_service_may_wait_for_so_many_at_once(
    gateway: Gateway, eventually: Callable[..., None]
) -> None:
    key = gateway.key()
    with gateway.client(key) as client:
        job_id = enqueued(client)["id"]

        def wait(_: int) -> int:
            headers = {"authorization": f"Bearer {key}"}
            url = f"{gateway.url}/v1/jobs/{job_id}"
            with httpx2.stream("GET", f"{url}/events", headers=headers, timeout=20) as answer:
                if answer.status_code == 200:
                    answer.read()
                return answer.status_code

        with ThreadPoolExecutor(9) as pool:
            statuses = [pool.submit(wait, number) for number in range(9)]
            eventually(lambda: sum(status.done() for status in statuses) == 4)
            problem(client.get(f"/v1/jobs/{job_id}?wait=1"), 429, "too-many-streams")
            gateway.finish(job_id)
            assert sorted(s.result() for s in statuses) == [200] * 5 + [429] * 4


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_events_end_with_the_job(gateway: Gateway, client: httpx2.Client, state: str) -> None:
    job_id = enqueued(client)["id"]
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines).startswith(":")  # at once, so that proxies and clients see it is open
        gateway.finish(job_id, state)
        rest = [line for line in lines if line]
    name, data = rest[-2:]
    assert name == ("event: result" if state == "succeeded" else "event: error")
    job = client.get(f"/v1/jobs/{job_id}")
    assert data == f"data: {job.text}"


def test_a_job_is_cancelled(gateway: Gateway, client: httpx2.Client) -> None:
    job_id = enqueued(client)["id"]
    for _ in range(2):
        answer = client.delete(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200
        assert answer.json()["state"] == "cancelled"

    running = enqueued(client)["id"]
    gateway.query(
        "UPDATE jobs SET state = 'running', claim_token = gen_random_uuid(), worker = 'w', "
        "lease_expires_at = now() + interval '1 hour' WHERE id = :id",
        id=running,
    )
    answer = client.delete(f"/v1/jobs/{running}")
    assert answer.status_code == 202
    (row,) = gateway.query("SELECT state, cancel_requested FROM jobs WHERE id = :id", id=running)
    assert row == {"state": "running", "cancel_requested": True}

    done = enqueued(client)["id"]
    gateway.finish(done)
    assert client.delete(f"/v1/jobs/{done}").json()["state"] == "succeeded"


def test_the_tasks_are_listed(client: httpx2.Client) -> None:
    found = {
        task.name: task for task in TaskList.model_validate(client.get("/v1/tasks").json()).tasks
    }
    ticket = found["classify_ticket"]
    assert set(ticket.input_schema["properties"]) == set(TICKET)
    assert "category" in ticket.output_schema["properties"]
    assert ticket.max_input_bytes == 200_000
    assert ticket.description


def test_a_job_that_is_gone_ends_its_stream(gateway: Gateway, client: httpx2.Client) -> None:
    job_id = enqueued(client)["id"]
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        lines = answer.iter_lines()
        next(lines)
        gateway.query("DELETE FROM jobs WHERE id = :id", id=UUID(job_id))
        rest = [line for line in lines if line]
    assert rest[-2] == "event: error"
    assert "job-not-found" in rest[-1]
    problem(client.get(f"/v1/jobs/{uuid4()}?wait=1"), 404, "job-not-found")
