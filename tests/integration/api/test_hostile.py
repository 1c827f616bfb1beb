"""Requests that are wrong, or meant to do harm."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import httpx2
import pytest

from tests.gateway import BODY, JSON, TICKET, Gateway, problem

pytestmark = pytest.mark.usefixtures("unharmed")


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
