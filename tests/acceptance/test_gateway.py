"""Over HTTP, with a real worker and the simulated Claude: from the request to the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault, Point
from sandbox.service import Service
from sandbox.stack import Stack
from tests.gateway import BODY, TICKET, Gateway
from worker.storage.engine import build_engine


@pytest.fixture(scope="module")
def gateway(stack: Stack, fleet_environment: dict[str, str], worker: Service) -> Iterator[Gateway]:
    """A gateway to the module's system."""
    extra = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    service = stack.start_api("api-acceptance", **extra)
    engine = build_engine(fleet_environment["DATABASE_URL"])
    yield Gateway(stack.api_url, engine, service)
    service.stop()
    engine.dispose()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


def test_a_job_is_enqueued_waited_for_and_accounted_for(client: httpx2.Client) -> None:
    answer = client.post("/v1/tasks/classify_ticket/jobs?wait=30", json={"input": TICKET})
    assert answer.status_code == 200
    job = answer.json()
    assert job["state"] == "succeeded"
    assert job["output"]["category"] in TICKET["categories"]
    assert job["prompt_version"] == "1.0"
    assert job["usage"]["calls"] == 1
    assert job["usage"]["output_tokens"] > 0
    assert float(job["usage"]["cost_usd"]) > 0


def test_a_batch_is_run_and_each_job_can_be_followed(client: httpx2.Client) -> None:
    jobs = client.post("/v1/jobs/batch", json={"jobs": [BODY] * 20}).json()["jobs"]
    for job in jobs:
        with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
            lines = [line for line in events.iter_lines() if line.startswith(("event", "data"))]
        assert lines[-2] == "event: result"
        assert json.loads(lines[-1].removeprefix("data: "))["output"]["category"]


def test_a_job_that_fails_says_why(claude: SimulatedClaude, client: httpx2.Client) -> None:
    claude.faults(Fault(stop_reason="refusal", content="empty", times=None))
    answer = client.post("/v1/jobs?wait=30", json=BODY)
    job = answer.json()
    assert answer.status_code == 200
    assert (job["state"], job["error"]["type"], job["output"]) == ("failed", "refused", None)


def test_a_running_job_is_cut_off(
    claude: SimulatedClaude, client: httpx2.Client, eventually: Callable[..., None]
) -> None:
    claude.configure(latency=20.0)
    job_id = client.post("/v1/jobs", json=BODY).json()["id"]
    eventually(lambda: client.get(f"/v1/jobs/{job_id}").json()["state"] == "running")
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 202
    assert client.get(f"/v1/jobs/{job_id}?wait=15").json()["state"] == "cancelled"


def test_a_streamed_job_is_watched_and_gone_on_with(
    claude: SimulatedClaude, client: httpx2.Client
) -> None:
    claude.configure(latency=0.3, tokens_per_second=60)
    job_id = client.post("/v1/jobs", json=BODY | {"stream": True}).json()["id"]
    events = list(followed(client, job_id))
    kinds = [kind for kind, _, _ in events]
    assert kinds.count("delta") > 3
    assert "partial" in kinds
    assert kinds[-1] == "result"
    job = events[-1][2]
    text = "".join(data["text"] for kind, _, data in events if kind == "delta")
    assert json.loads(text) == job["output"]
    *_, partial = [data["output"] for kind, _, data in events if kind == "partial"]
    assert set(partial) <= set(job["output"])


def test_a_client_goes_on_where_its_connection_broke(
    claude: SimulatedClaude, client: httpx2.Client
) -> None:
    claude.configure(latency=0.3, tokens_per_second=60)
    job_id = client.post("/v1/jobs", json=BODY | {"stream": True}).json()["id"]
    text, seen = "", None
    for kind, event_id, data in followed(client, job_id):
        if kind == "delta":
            text, seen = text + data["text"], event_id
            if text.count('"') > 5:
                break
    for kind, _, data in followed(client, job_id, seen):
        assert kind != "retrying"
        text += data["text"] if kind == "delta" else ""
    assert json.loads(text) == client.get(f"/v1/jobs/{job_id}").json()["output"]


def test_an_attempt_that_begins_anew_is_told(
    claude: SimulatedClaude, client: httpx2.Client
) -> None:
    claude.configure(latency=0.2, tokens_per_second=100)
    claude.faults(Fault(cut=True, at=Point(events=6), times=1))
    job_id = client.post("/v1/jobs", json=BODY | {"stream": True}).json()["id"]
    text = ""
    kinds = []
    for kind, _, data in followed(client, job_id):
        kinds.append(kind)
        text = "" if kind == "retrying" else text + data.get("text", "")
    assert "retrying" in kinds
    assert json.loads(text) == client.get(f"/v1/jobs/{job_id}").json()["output"]


def followed(
    client: httpx2.Client, job_id: str, after: str | None = None
) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """The events of a job: kind, id, data."""
    headers = {"last-event-id": after} if after else {}
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "event" in fields:
                yield fields["event"], fields.get("id"), json.loads(fields["data"])
                fields = {}
