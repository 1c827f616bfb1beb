"""A lost answer enqueues nothing twice: the gateway takes the request, and nobody hears of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from claude_jobs_client import (
    IdempotencyConflict,
    JobsClient,
    NewJob,
    Retries,
    TooManyRequests,
    Unavailable,
)
from tests.gateway import TICKET, Gateway
from tests.integration.client.conftest import QUICK, Connect
from tests.integration.client.faulty import Faulty, dropped, refused, says


def jobs_of(gateway: Gateway, service: str) -> list[Any]:
    sql = "SELECT id, idempotency_key FROM jobs WHERE service = :service ORDER BY created_at"
    return gateway.query(sql, service=service)


def test_a_job_is_enqueued_once_however_often_its_answer_is_lost(
    gateway: Gateway, before: Faulty, connect: Connect, request: pytest.FixtureRequest
) -> None:
    service = f"once-{request.node.callspec.id}"
    client = connect(before.url, gateway.key(service))
    before.then(refused, dropped, dropped)

    job = client.enqueue("classify_ticket", TICKET)

    (row,) = jobs_of(gateway, service)
    assert row["id"] == job.id
    assert len(before.seen) == 4


def test_a_batch_is_enqueued_once_and_in_order(
    gateway: Gateway, before: Faulty, connect: Connect, request: pytest.FixtureRequest
) -> None:
    service = f"batch-{request.node.callspec.id}"
    client = connect(before.url, gateway.key(service))
    before.then(dropped)
    jobs = [NewJob("classify_ticket", TICKET | {"subject": str(n)}) for n in range(50)]
    jobs.insert(7, NewJob("classify_ticket", {"subject": "incomplete"}))

    became = client.enqueue_many(jobs)

    assert [item.created for item in became] == [False] * 7 + [None] + [False] * 43
    assert "input.body" in str(became[7].problem)
    sql = "SELECT input->>'subject' AS subject, id FROM jobs WHERE service = :service"
    placed = {row["id"]: row["subject"] for row in gateway.query(sql, service=service)}
    assert [placed[item.id] for item in became if item.id] == [str(n) for n in range(50)]


def test_more_than_a_batch_becomes_several(gateway: Gateway, before: Faulty) -> None:
    big = TICKET | {"body": "x" * 100_000}
    with JobsClient(before.url, gateway.key("large")) as client:
        became = client.enqueue_many(
            (NewJob("classify_ticket", big) for _ in range(65)), idempotency_key="night"
        )
        again = client.enqueue_many(
            (NewJob("classify_ticket", big) for _ in range(65)), idempotency_key="night"
        )
    assert len(before.seen) == 6
    assert [item.id for item in again] == [item.id for item in became]
    keys = {row["idempotency_key"] for row in jobs_of(gateway, "large")}
    assert keys == {f"night:{n}" for n in range(65)}


def test_who_gives_up_is_told_the_key_that_makes_it_safe_to_try_again(
    gateway: Gateway, before: Faulty, connect: Connect, request: pytest.FixtureRequest
) -> None:
    service = f"key-{request.node.callspec.id}"
    client = connect(before.url, gateway.key(service))
    before.then(*[dropped] * QUICK.tries)

    with pytest.raises(Unavailable, match="POST /v1/jobs: no answer from the gateway") as caught:
        client.enqueue("classify_ticket", TICKET)
    key = caught.value.idempotency_key
    job = client.enqueue("classify_ticket", TICKET, idempotency_key=key)

    (row,) = jobs_of(gateway, service)
    assert (row["id"], row["idempotency_key"]) == (job.id, key)
    with pytest.raises(IdempotencyConflict, match="was used before with another input"):
        client.enqueue("classify_ticket", TICKET | {"body": "another"}, idempotency_key=key)


def test_threads_share_a_client(gateway: Gateway, before: Faulty) -> None:
    before.then(*[refused, dropped] * 10)
    patient = Retries(tries=21, first=0.01, longest=0.05)  # one of them may meet every fault
    with (
        JobsClient(before.url, gateway.key("threads"), retries=patient) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        inputs = [TICKET | {"subject": str(n)} for n in range(80)]
        ids = list(pool.map(lambda each: client.enqueue("classify_ticket", each).id, inputs))
    assert sorted(ids) == sorted(row["id"] for row in jobs_of(gateway, "threads"))


def test_it_comes_back_when_it_is_asked_to(faulty: Faulty, connect: Connect) -> None:
    client = connect(faulty.url)
    answer = b'{"tasks": []}'
    faulty.then(says(429, retry_after="0"), says(502), says(504), says(200, answer))
    assert client.tasks() == []
    faulty.then(says(429, retry_after="3600"))
    with pytest.raises(TooManyRequests) as caught:
        client.tasks()
    assert caught.value.retry_after == 3600
    faulty.then(*[says(503)] * 4)
    with pytest.raises(Unavailable, match=r"^GET /v1/tasks: 503 Service Unavailable$"):
        client.tasks()
    assert not faulty.faults
