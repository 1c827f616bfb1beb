"""Bytes that are no request, too many of them, or too slow."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from tests.gateway import BODY, JSON, TICKET, Gateway, problem, read_all

pytestmark = pytest.mark.usefixtures("unharmed")


def test_headers_cannot_be_broken_out_of(gateway: Gateway) -> None:
    key = gateway.key()
    body = json.dumps(BODY).encode()
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    ).encode()
    # Other bytes than printable ASCII are refused; what follows a line break is another header.
    for value in (b"a\x01b", b"a\x7fb", "ä".encode(), b"a\x00b", b"\xff"):
        answer = gateway.raw(head + b"idempotency-key: " + value + b"\r\n\r\n" + body)
        assert answer.startswith((b"HTTP/1.1 422", b"HTTP/1.1 400")), answer
    answer = gateway.raw(
        head + b"x-request-id: a b<>\r\nidempotency-key: a\r\n x: y\r\n\r\n" + body
    )
    assert b"a b<>" not in answer
    # Nothing that was sent comes back as a header.
    for path in (b"/v1/jobs/%0d%0aset-cookie:%20a=b", b"/%0d%0aset-cookie:%20a=b"):
        request = b"GET " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        told = gateway.raw(request).partition(b"\r\n\r\n")[0]
        assert b"404" in told.splitlines()[0]
        assert b"set-cookie" not in told.lower()


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_refused(gateway: Gateway, request_: bytes) -> None:
    told = gateway.raw(request_)
    assert told == b"" or b" 400 " in told.splitlines()[0], told
    assert b"application/problem+json" in told or told == b""


def test_a_body_beyond_the_limit_is_cut_off(gateway: Gateway, client: httpx2.Client) -> None:
    large = BODY | {"input": TICKET | {"body": "x" * 210_000}}
    problem(client.post("/v1/jobs", json=large), 413, "input-too-large")
    problem(client.post("/v1/jobs", content=b" " * 300_000, headers=JSON), 413, "body-too-large")
    # The limit of a batch is another one.
    answer = client.post("/v1/jobs/batch", json={"jobs": [BODY, large]}).json()
    assert (answer["enqueued"], answer["refused"]) == (1, 1)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_hundred_megabytes_are_not_kept(
    gateway: Gateway, client: httpx2.Client, chunked: bool
) -> None:
    before = resident(gateway)
    piece = b" " * 1_000_000
    content: Any = (piece for _ in range(100)) if chunked else piece * 100
    try:
        answer = client.post("/v1/jobs", content=content, headers=JSON)
    except httpx2.WriteError:  # it had not sent everything when the connection was closed
        answer = None
    assert answer is None or answer.status_code == 413
    assert resident(gateway) - before < 30_000_000


def resident(gateway: Gateway) -> int:
    """The memory of the gateway's process (bytes)."""
    with open(f"/proc/{gateway.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_a_client_that_asks_before_it_sends_is_told_at_once(gateway: Gateway) -> None:
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key()}\r\n"
        "content-type: application/json\r\ncontent-length: 100000000\r\nexpect: 100-continue\r\n"
    )
    told = gateway.raw(head.encode() + b"\r\n")
    assert told.startswith(b"HTTP/1.1 413")


def test_connections_that_say_too_little_are_closed(gateway: Gateway) -> None:
    """Half-open ones, a header byte by byte, and a body that does not come."""
    slow_body = (
        f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key()}\r\n"
        "content-type: application/json\r\ncontent-length: 50\r\n\r\n{"
    ).encode()
    with ExitStack() as stack:
        silent, dripping, unfinished = (stack.enter_context(gateway.connect()) for _ in range(3))
        unfinished.sendall(slow_body)
        dripping.settimeout(0.1)
        answer = b""
        # Were each byte a sign of life, they would all be taken.
        for byte in b"GET /healthz HTTP/1.1\r\nx-slow: " + b"a" * 200:
            try:
                dripping.sendall(bytes([byte]))
                answer += dripping.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if answer:
                break
        assert answer.startswith(b"HTTP/1.1 408")
        assert read_all(silent).startswith(b"HTTP/1.1 408")
        assert read_all(unfinished).startswith(b"HTTP/1.1 408")
    # One that is served, and then begins another request without ending it.
    with gateway.connect() as wire:
        wire.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 200")
        wire.sendall(b"GET /healthz HT")
        assert b"HTTP/1.1 408" in read_all(wire)


def test_headers_have_a_bound(gateway: Gateway) -> None:
    one = gateway.raw(b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000 + b"\r\n\r\n")
    assert one.startswith(b"HTTP/1.1 431")
    many = b"".join(b"x-%d: a\r\n" % number for number in range(5000))
    assert gateway.raw(b"GET / HTTP/1.1\r\n" + many + b"\r\n").startswith(b"HTTP/1.1 431")
    # One that never ends is no way around it.
    with gateway.connect() as wire:
        wire.sendall(b"GET /")
        sent = 0
        try:
            while sent < 5_000_000:
                wire.sendall(b"a" * 65536)
                sent += 65536
        except OSError:
            pass
        assert sent < 5_000_000


def test_connections_beyond_the_bound_are_closed_at_once(gateway: Gateway) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(gateway.connect()) for _ in range(320)]
        wires[-1].settimeout(5)
        assert read_all(wires[-1]).startswith(b"HTTP/1.1 503")


def test_a_request_that_was_cut_off_leaves_nothing(gateway: Gateway) -> None:
    with gateway.client() as client:
        key = client.headers["authorization"]
        for part in (0.3, 0.9):
            body = json.dumps(BODY).encode()
            head = (
                f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            ).encode()
            with gateway.connect() as wire:
                wire.sendall(head + body[: int(len(body) * part)])
                wire.shutdown(socket.SHUT_WR)
                read_all(wire)
        assert client.get("/v1/jobs").json()["jobs"] == []
