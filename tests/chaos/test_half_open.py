"""Thousands of connections that are half-open, or are never read from: nobody else notices."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import pytest

from sandbox.stack import Stack
from tests.gateway import BODY, Gateway
from worker.storage.engine import build_engine

#: Half-open connections, and as many streams that are never read.
MANY = 3000 if os.environ.get("CHAOS_LONG") == "1" else 400
#: What one of them may take of the gateway's memory (bytes), and what the rest may.
EACH, REST = 60_000, 60_000_000


@pytest.fixture(autouse=True)
def room_for_connections() -> Iterator[None]:
    """Both ends of every connection are files; the gateway's process raises its own limit."""
    wanted = 2 * MANY + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may open {hard} files here, and {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def gateway(stack: Stack) -> Iterator[Gateway]:
    database = stack.postgres.create_database("half_open", template="migrated")
    service = stack.start_api(
        "half-open",
        DATABASE_URL=database,
        CLAUDE_JOBS_API_CONNECTIONS=str(2 * MANY + 200),
        CLAUDE_JOBS_API_STREAMS=str(MANY),
        CLAUDE_JOBS_API_RECEIVE_SECONDS="20",
        CLAUDE_JOBS_API_ACCESS_LOG="0",
    )
    engine = build_engine(database)
    yield Gateway(stack.api_url, engine, service)
    service.stop()
    engine.dispose()
    stack.postgres.drop_database("half_open")


def resident(gateway: Gateway) -> int:
    """The memory of the gateway's process (bytes)."""
    return int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1]) * 4096


def files(gateway: Gateway) -> int:
    """How many files and connections the gateway's process has open."""
    return len(os.listdir(f"/proc/{gateway.process.pid}/fd"))


def half_open(key: str, number: int) -> bytes:
    """Nothing at all, half a head, or half a body."""
    head = f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n".encode()
    rest = b"content-type: application/json\r\ncontent-length: 500\r\n\r\n{"
    return [b"", head, head + rest][number % 3]


def connected(gateway: Gateway, stack: ExitStack, sent: bytes) -> socket.socket:
    """A connection with a small window on which something has been sent."""
    wire = socket.socket()
    stack.callback(wire.close)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    url = httpx2.URL(gateway.url)
    wire.settimeout(15)
    wire.connect((url.host, url.port))
    wire.sendall(sent)
    return wire


def is_closed(wire: socket.socket) -> bool:
    """Whether the other side has ended it; reads what there is."""
    wire.setblocking(False)
    try:
        while wire.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def follows(client: httpx2.Client, job_id: str) -> int:
    """The status with which a job's events begin."""
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        return answer.status_code


def end(gateway: Gateway, job_id: str, output: str) -> None:
    """End a job with an output that no small window holds."""
    gateway.query(
        "WITH ended AS (UPDATE jobs SET state = 'succeeded', finished_at = now() WHERE id = :id "
        "RETURNING id, task, service) "
        "INSERT INTO results (job_id, task, service, output, prompt, prompt_version, model) "
        "SELECT id, task, service, cast(:output AS jsonb), task, '1.0', 'm' FROM ended",
        id=job_id,
        output=json.dumps({"text": output}),
    )


def test_others_are_served_whatever_is_half_open(
    gateway: Gateway, eventually: Callable[..., None]
) -> None:
    key = gateway.key()
    with gateway.client(key) as own, gateway.client() as other, ExitStack() as stack:
        job_id = own.post("/v1/jobs", json=BODY).json()["id"]
        assert other.post("/v1/jobs", json=BODY).status_code == 202
        memory, open_files = resident(gateway), files(gateway)
        follow = (
            f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n".encode()
        )

        unread = [connected(gateway, stack, follow) for _ in range(MANY)]
        for wire in unread:  # each is answered; nothing is read of it
            assert wire.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 200"
        silent = [connected(gateway, stack, half_open(key, n)) for n in range(MANY)]
        everybody = open_files + 2 * MANY - 20
        eventually(lambda: files(gateway) >= everybody, "not all got in", seconds=60)

        # The service itself and others go on, while all of them are there …
        assert own.post("/v1/jobs", json=BODY).status_code == 202
        assert follows(own, job_id) == 429
        followed = other.post("/v1/jobs", json=BODY).json()["id"]
        with other.stream("GET", f"/v1/jobs/{followed}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            end(gateway, followed, "short")
            assert "event: result" in list(lines)
        assert files(gateway) >= everybody
        # … and when each of them has something to read.
        end(gateway, job_id, "x" * 20_000)
        for _ in range(20):
            assert other.post("/v1/jobs", json=BODY).status_code == 202
        assert resident(gateway) - memory < 2 * MANY * EACH + REST

        # What says too little is closed; who has been gone leaves nothing.
        eventually(lambda: all(map(is_closed, silent)), "half-open ones stayed", seconds=60)
        for wire in unread:
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        eventually(lambda: files(gateway) <= open_files + 20, "connections stayed", seconds=60)
        job_id = own.post("/v1/jobs", json=BODY).json()["id"]
        assert follows(own, job_id) == 200
    log = gateway.process.log_text()
    assert "Traceback" not in log
    assert "request failed" not in log
