"""Listing jobs, waiting for them, following and cancelling them over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from api.resources import JobList, TaskList
from tests.gateway import BODY, PATIENCE, TICKET, Gateway, enqueued, problem


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
