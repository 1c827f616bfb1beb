"""The process: how it starts, stops, and outlives its Postgres."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import httpx2
import pytest

from sandbox.stack import Stack
from tests.gateway import BODY, Gateway, problem
from worker.storage.engine import build_engine

START = [sys.executable, "-m", "worker.cli", "api"]


def test_it_stops_in_order(stack: Stack, gateway: Gateway) -> None:
    """Streams and waits end at once, and well; clients connect to another process."""
    database = gateway.engine.url.set(drivername="postgresql")
    url = database.render_as_string(hide_password=False)
    service = stack.start_api("stopping", DATABASE_URL=url, CLAUDE_JOBS_API_PROCESSES="2")
    headers = {"authorization": f"Bearer {gateway.key()}"}
    with httpx2.Client(base_url=stack.api_url, headers=headers, timeout=20) as client:
        job_id = client.post("/v1/jobs", json=BODY).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            service.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]  # raises if the answer is cut off
        assert rest == ["retry: 1000"]
    assert service.stop() == 0


def test_postgres_that_is_gone_is_a_503(stack: Stack, eventually: Callable[..., None]) -> None:
    database = stack.postgres.create_database("outage", template="migrated")
    service = stack.start_api("outage", DATABASE_URL=database)
    engine = build_engine(database)
    gateway = Gateway(stack.api_url, engine, service)
    with gateway.client() as client:
        assert client.post("/v1/jobs", json=BODY).status_code == 202
        engine.dispose()
        stack.postgres.drop_database("outage")
        problem(client.post("/v1/jobs", json=BODY), 503, "unavailable")
        answer = client.get("/v1/jobs")
        problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "2"
        assert "outage" not in answer.text
        eventually(lambda: client.get("/readyz").status_code == 503)
        problem(client.get("/readyz"), 503, "not-ready")
        assert client.get("/healthz").status_code == 200
    assert "Traceback" not in service.log_text()
    service.stop()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"DATABASE_URL": "postgresql://127.0.0.1:9/x"}, "cannot reach Postgres"),
        (
            {"CLAUDE_JOBS_API_PORT": "x", "CLAUDE_JOBS_API_CORS_ORIGINS": "*"},
            "CLAUDE_JOBS_API_CORS_ORIGINS is malformed",
        ),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(
    environment: dict[str, str], variables: dict[str, str], says: str
) -> None:
    ran = subprocess.run(
        START, env=environment | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert says in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
