"""Over HTTP, with a real worker and the simulated Claude: from the request to the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx2
import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
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
