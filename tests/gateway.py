"""The gateway as its clients see it: one process for all tests of a test process."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx2
from sqlalchemy import Engine, text

from sandbox.service import Service
from worker.storage.api_keys import create_key
from worker.storage.engine import transaction

TICKET = {"subject": "Paid twice", "body": "…", "categories": ["billing", "other"]}
BODY = {"task": "classify_ticket", "input": TICKET}

#: The headers of a body that is bytes.
JSON = {"content-type": "application/json"}

#: How long a client waits for an answer (seconds).
PATIENCE = 20

#: What the shared gateway is started with: short patience, small bounds.
SETTINGS = {
    "CLAUDE_JOBS_MAX_INPUT_BYTES": "200000",
    "CLAUDE_JOBS_API_BATCH_BYTES": "4000000",
    "CLAUDE_JOBS_API_BODY_BYTES": "1000000",
    "CLAUDE_JOBS_API_RECEIVE_SECONDS": "1",
    "CLAUDE_JOBS_API_CONNECTIONS": "300",
    "CLAUDE_JOBS_API_STREAMS": "5",
    "CLAUDE_JOBS_API_WAIT_SECONDS": str(PATIENCE * 2),
    "CLAUDE_JOBS_API_CORS_ORIGINS": "https://app.example.com",
}

_FINISH = text("""
WITH ended AS (
    UPDATE jobs SET state = :state, finished_at = now(), error = cast(:error AS jsonb)
    WHERE id = :id RETURNING id, task, service
)
INSERT INTO results (job_id, task, service, output, prompt, prompt_version, model)
SELECT id, task, service, cast(:output AS jsonb), task, '1.0', 'm' FROM ended
WHERE :state = 'succeeded'
""")


@dataclass
class Gateway:
    """A running gateway and its database."""

    url: str
    engine: Engine
    process: Service

    def key(self, service: str | None = None, **options: Any) -> str:
        """A new key; of a service of its own unless one is named."""
        with transaction(self.engine) as connection:
            return create_key(connection, service or f"s-{uuid4()}", by="test", **options)[1]

    @contextmanager
    def client(self, key: str | None = None, **options: Any) -> Iterator[httpx2.Client]:
        """A client with a key: a new one of a new service unless it is given."""
        headers = {"authorization": f"Bearer {key or self.key(**options)}"}
        with httpx2.Client(base_url=self.url, headers=headers, timeout=PATIENCE) as client:
            yield client

    def query(self, sql: str, **values: Any) -> list[Any]:
        """Run a statement on the gateway's database and return its rows."""
        with transaction(self.engine) as connection:
            found = connection.execute(text(sql), values)
            return list(found.mappings()) if found.returns_rows else []

    def finish(self, job_id: UUID | str, state: str = "succeeded") -> None:
        """End a job, as a worker would."""
        error = None if state == "succeeded" else json.dumps({"type": "test", "message": "…"})
        values = {"id": str(job_id), "state": state, "error": error, "output": '{"category": "x"}'}
        with transaction(self.engine) as connection:
            connection.execute(_FINISH, values)

    def connect(self) -> socket.socket:
        """A connection on which nothing has been said yet."""
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=15)

    def raw(self, request: bytes) -> bytes:
        """Send bytes, and read until the server closes the connection."""
        with self.connect() as wire:
            wire.sendall(request)
            return read_all(wire)


def read_all(wire: socket.socket) -> bytes:
    """What comes until the other side closes."""
    received = b""
    while True:
        try:
            piece = wire.recv(65536)
        except ConnectionResetError:
            return received
        if not piece:
            return received
        received += piece


def problem(answer: httpx2.Response, status: int, kind: str) -> dict[str, Any]:
    """Check that an answer is that problem, and nothing but what a problem has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["type"] == f"urn:claude-jobs:problem:{kind}"
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    assert set(told) <= {"type", "title", "status", "detail", "instance", "errors"}
    return told


def enqueued(client: httpx2.Client, **options: Any) -> dict[str, Any]:
    """Enqueue a ticket and return the job."""
    answer = client.post("/v1/jobs", json=BODY | options)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job
