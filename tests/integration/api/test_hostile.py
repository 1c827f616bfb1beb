"""Requests that are wrong, or meant to do harm."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from tests.gateway import BODY, TICKET, Gateway, problem, read_all

JSON = {"content-type": "application/json"}


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


@pytest.fixture(autouse=True)
def unharmed(gateway: Gateway) -> Iterator[None]:
    """Whatever a test sends: the gateway serves on, and its log says nothing of an input."""
    yield
    assert httpx2.get(gateway.url + "/readyz").status_code == 200
    log = gateway.process.log_text()
    assert "Traceback" not in log
    assert "request failed" not in log
    assert "SECRET" not in log


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense SECRET",
        b"\xff\xfe",
        b'{"task": "\xc3\x28"}',
        b'{"task": "\\ud800"}',
        b'{"task": "a\x00b"}',
        b'{"task": NaN}',
        b'{"task": Infinity}',
        b'{"task": 1} {"task": 2}',
        b'{"task": "classify_ticket", "task": "summarize_text"}',
        b'{"input": {"a": 1, "a": 2}}',
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b"9" * 10_000,
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_json_is_refused(client: httpx2.Client, body: bytes) -> None:
    for path in ("/v1/jobs", "/v1/jobs/batch", "/v1/tasks/classify_ticket/jobs"):
        problem(client.post(path, content=body, headers=JSON), 400, "malformed-json")


@pytest.mark.parametrize(
    "content", [b'{"n": 1e999}', b'{"n": -1e999}', b'{"n": ' + b"[" * 180 + b"]" * 180 + b"}"]
)
def test_what_postgres_could_not_store_is_refused(client: httpx2.Client, content: bytes) -> None:
    body = b'{"task": "classify_ticket", "input": ' + content + b"}"
    problem(client.post("/v1/jobs", content=body, headers=JSON), 422, "invalid-input")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {},
    ],
)
def test_what_is_not_said_to_be_json_is_refused(
    client: httpx2.Client, headers: dict[str, str]
) -> None:
    answer = client.post("/v1/jobs", content=json.dumps(BODY).encode(), headers=headers)
    problem(answer, 415, "unsupported-media-type")


INJECTIONS = [
    "'; DROP TABLE jobs; --",
    "\\'; SELECT pg_sleep(10); --",
    "$$; DELETE FROM jobs; $$",
    "{{ 7 * 7 }}",
    "{% for x in ().__class__.__mro__ %}{{ x }}{% endfor %}",
    "${jndi:ldap://x/a}",
    "<script>alert(1)</script>",
    "%s %(id)s :id {0}",
    "../../etc/passwd",
    "\u202e\u200b\U0001f4a9",
    "e\u0301",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_is_nothing_but_text(gateway: Gateway, client: httpx2.Client, text: str) -> None:
    for field in ("user_id", "model"):
        answer = client.post("/v1/jobs", json=BODY | {field: text})
        assert answer.json()[field] == text
    values = TICKET | {"subject": text, "body": text, "categories": [text, text]}
    job_id = client.post("/v1/jobs", json=BODY | {"input": values}).json()["id"]
    (row,) = gateway.query("SELECT input FROM jobs WHERE id = :id", id=job_id)
    assert row["input"] == values

    assert len(client.get("/v1/jobs", params={"user_id": text}).json()["jobs"]) == 1
    assert client.get("/v1/jobs", params={"task": text}).json()["jobs"] == []
    for name in ("state", "limit", "cursor"):
        problem(client.get("/v1/jobs", params={name: text}), 422, "invalid-input")
    for name in ("task", "lane", "run_at", "prompt_version", "idempotency_key", "webhook_url"):
        answer = client.post("/v1/jobs", json=BODY | {name: text})
        assert answer.status_code in (202, 422), answer.text
    url = httpx2.URL(gateway.url).copy_with(path=f"/v1/jobs/{text}")
    assert client.get(url).status_code == 404
    assert len(client.get("/v1/jobs?limit=500").json()["jobs"]) >= 3


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


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/docs", 404, "not-found"),
        ("GET", "/v1/jobs/", 404, "not-found"),
        ("GET", "/v1/jobs/not-a-uuid", 404, "not-found"),
        ("GET", "//v1//jobs", 404, "not-found"),
        ("GET", "/v1/jobs/%00", 404, "not-found"),
        ("PUT", "/v1/jobs", 405, "method-not-allowed"),
        ("PATCH", f"/v1/jobs/{UUID(int=7)}", 405, "method-not-allowed"),
        ("GET", "/v1/jobs/batch", 405, "method-not-allowed"),
        ("TRACE", "/healthz", 405, "method-not-allowed"),
    ],
)
def test_the_frameworks_own_errors_are_problems(
    gateway: Gateway, client: httpx2.Client, method: str, path: str, status: int, kind: str
) -> None:
    problem(client.request(method, gateway.url + path), status, kind)


def test_methods_are_all_named(client: httpx2.Client) -> None:
    assert client.put("/v1/jobs").headers["allow"] == "GET, POST"
    assert client.put(f"/v1/jobs/{uuid4()}").headers["allow"] == "DELETE, GET"


def test_every_answer_has_the_security_headers(client: httpx2.Client) -> None:
    for answer in (client.get("/healthz"), client.get("/nope"), client.post("/v1/jobs", json=BODY)):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert answer.headers["x-request-id"]
        assert "set-cookie" not in answer.headers


def test_only_origins_that_were_named_may_call_from_a_page(client: httpx2.Client) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    named = client.options("/v1/jobs", headers=asked | {"origin": "https://app.example.com"})
    assert named.status_code == 200
    assert named.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "access-control-allow-credentials" not in named.headers
    for origin in ("https://evil.example", "null", "https://app.example.com.evil.example"):
        other = client.get("/v1/jobs", headers={"origin": origin})
        assert "access-control-allow-origin" not in other.headers


def test_the_log_tells_of_requests_but_not_what_is_in_them(
    gateway: Gateway, client: httpx2.Client
) -> None:
    body = BODY | {"input": TICKET | {"body": "SECRET"}, "user_id": "SECRET"}
    answer = client.post("/v1/jobs", json=body, headers={"x-request-id": "trace-77"})
    assert answer.headers["x-request-id"] == "trace-77"
    client.get("/v1/jobs?user_id=SECRET")
    client.get("/SECRET")
    client.post("/v1/jobs", json=BODY | {"input": {"SECRET": "SECRET"}})
    (line,) = [each for each in gateway.process.log_text().splitlines() if "trace-77" in each]
    for part in ("route=/v1/jobs", "status=202", "service=s-", "method=POST"):
        assert part in line
    assert "cj_" not in gateway.process.log_text()
