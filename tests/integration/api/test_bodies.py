"""What bodies may cost: bytes of a service, values of a job, errors of an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from tests.gateway import BODY, JSON, TICKET, Gateway, problem, read_all

#: Bytes of a body that is begun and not ended; three fit into what a service may have.
PART = 260_000


@pytest.mark.parametrize("chunked", [False, True])
def test_the_bodies_of_a_service_have_a_bound_together(
    gateway: Gateway, eventually: Callable[..., None], chunked: bool
) -> None:
    key = gateway.key()
    length = "transfer-encoding: chunked" if chunked else f"content-length: {PART}"
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\n{length}\r\n\r\n"
    ).encode()
    begun = head + (f"{PART:x}\r\n".encode() + b" " * PART if chunked else b" " * 100)
    large = BODY | {"input": TICKET | {"body": "x" * 190_000}}

    with gateway.client(key) as client, gateway.client() as other, ExitStack() as stack:
        # Without a bound all five would be read: they end as too slow, after a second.
        wires = [stack.enter_context(gateway.connect()) for _ in range(5)]
        for wire in wires:
            wire.sendall(begun)
        answers = [read_all(wire) for wire in wires]
        refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 429")]
        slow = [answer for answer in answers if answer.startswith(b"HTTP/1.1 408")]
        assert (len(refused), len(slow)) == (2, 3)
        assert b"retry-after: 1\r\n" in refused[0]
        told = json.loads(refused[0].partition(b"\r\n\r\n")[2])
        assert told["type"] == "urn:claude-jobs:problem:too-many-bytes"
        assert "1,000,000 are the limit" in told["detail"]

        # They have let go, and another service was never concerned.
        assert other.post("/v1/jobs", json=large).status_code == 202
        eventually(lambda: client.post("/v1/jobs", json=large).status_code == 202)


def test_another_service_is_not_held_up(gateway: Gateway) -> None:
    with gateway.client() as busy, gateway.client() as other, ExitStack() as stack:
        key = busy.headers["authorization"]
        head = f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n"
        rest = f"content-type: application/json\r\ncontent-length: {PART}\r\n\r\n"
        wires = [stack.enter_context(gateway.connect()) for _ in range(4)]
        for wire in wires:
            wire.sendall((head + rest).encode() + b" ")
        large = BODY | {"input": TICKET | {"body": "x" * 150_000}}
        assert other.post("/v1/jobs", json=large).status_code == 202


def test_a_job_has_so_many_values(client: httpx2.Client) -> None:
    many = {"x": [[]] * 11_000}
    told = problem(client.post("/v1/jobs", json=BODY | {"input": many}), 413, "input-too-large")
    assert "more than 20,000 values" in told["detail"]
    answer = client.post("/v1/jobs/batch", json={"jobs": [BODY, BODY | {"input": many}]}).json()
    assert (answer["enqueued"], answer["refused"]) == (1, 1)
    assert answer["jobs"][1]["problem"]["detail"] == "jobs.1 has more than 20,000 values."

    prose = TICKET | {"body": "a, b [c] {d}, " * 10_000}
    assert client.post("/v1/jobs", json=BODY | {"input": prose}).status_code == 202


def test_an_answer_does_not_outgrow_its_request(client: httpx2.Client) -> None:
    wrong = {f"field{n}": 1 for n in range(9000)}
    for body in (BODY | {"input": wrong}, BODY | wrong):
        answer = client.post("/v1/jobs", json=body)
        assert len(problem(answer, 422, "invalid-input")["errors"]) == 20


def test_a_batch_with_one_that_is_no_json_is_none(client: httpx2.Client) -> None:
    good = json.dumps(BODY).encode()
    for bad in (b'{"task": "a", "task": "b"}', b"{]", b"NaN", b"", b'"\xc3\x28"'):
        body = b'{"jobs": [' + good + b", " + bad + b", " + good + b"]}"
        told = problem(
            client.post("/v1/jobs/batch", content=body, headers=JSON), 400, "malformed-json"
        )
        assert told["detail"].startswith("jobs.1 is not JSON: ")
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_what_is_far_too_large_stops_no_other_of_its_batch(client: httpx2.Client) -> None:
    huge: Any = BODY | {"input": TICKET | {"body": "x\n" * 500_000}}
    answer = client.post("/v1/jobs/batch", json={"jobs": [BODY, huge, BODY]}).json()
    assert (answer["enqueued"], answer["refused"]) == (2, 1)
    assert answer["jobs"][1]["problem"]["type"].endswith(":input-too-large")


def test_texts_of_a_batch_are_stored_as_they_are(gateway: Gateway, client: httpx2.Client) -> None:
    texts = [
        "\\",
        '"',
        '\\"',
        '{"a"}',
        "','\\n",
        "NULL",
        "{},{}",
        "\\u0041\\\\",
        "\n\r\t\x01",
        "é😀",
    ]
    jobs = [BODY | {"input": TICKET | {"body": text}} for text in texts]
    key = {"idempotency-key": "texts"}
    once, again = (
        client.post("/v1/jobs/batch", json={"jobs": jobs}, headers=key).json() for _ in range(2)
    )
    assert once["enqueued"] == again["enqueued"] == len(texts)
    ids = [item["id"] for item in once["jobs"]]
    rows = gateway.query("SELECT id, input FROM jobs WHERE id = ANY(cast(:ids AS uuid[]))", ids=ids)
    stored = {str(row["id"]): row["input"]["body"] for row in rows}
    assert [stored[job_id] for job_id in ids] == texts
