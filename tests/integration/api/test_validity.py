"""A key that ends while something is open with it: what is open ends too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx2
import pytest

from api.access import TRUST_SECONDS
from tests.gateway import BODY, Gateway, problem
from worker.storage.api_keys import digest, revoke_key
from worker.storage.engine import transaction

REFUSED = '"type":"urn:claude-jobs:problem:unauthorized"'


def revoke(gateway: Gateway, key: str) -> None:
    (row,) = gateway.query("SELECT id FROM api_keys WHERE sha256 = :sha256", sha256=digest(key))
    with transaction(gateway.engine) as connection:
        revoke_key(connection, UUID(str(row["id"])))


def followed(gateway: Gateway, key: str, job_id: str, begun: threading.Barrier) -> list[str]:
    """The lines of a job's events; `begun` is passed once the stream is open."""
    with (
        gateway.client(key) as client,
        client.stream("GET", f"/v1/jobs/{job_id}/events") as answer,
    ):
        lines = answer.iter_lines()
        told = [next(lines)]
        begun.wait(20)
        return told + [line for line in lines if line]


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_streams_end_with_their_key_and_with_no_other(gateway: Gateway, how: str) -> None:
    service = f"s-{uuid4()}"
    soon = datetime.now(UTC) + timedelta(seconds=2) if how == "expired" else None
    ending, lasting = gateway.key(service, expires_at=soon), gateway.key(service)
    with gateway.client(lasting) as client:
        job_id = client.post("/v1/jobs", json=BODY).json()["id"]
    begun = threading.Barrier(4)
    with ThreadPoolExecutor(3) as pool:
        streams = [
            pool.submit(followed, gateway, key, job_id, begun) for key in (ending, ending, lasting)
        ]
        begun.wait(20)
        if how == "revoked":
            revoke(gateway, ending)
        for stream in streams[:2]:
            *_, kind, data = stream.result(TRUST_SECONDS * 4)
            assert kind == "event: error"
            assert REFUSED in data
        assert not streams[2].done()
        gateway.finish(job_id)
        assert "event: result" in streams[2].result(20)


def test_a_result_is_not_told_to_a_key_that_has_just_ended(gateway: Gateway) -> None:
    key = gateway.key()
    with gateway.client(key) as client:
        job_id = client.post("/v1/jobs", json=BODY).json()["id"]
    begun = threading.Barrier(2)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(followed, gateway, key, job_id, begun)
        begun.wait(20)
        revoke(gateway, key)
        gateway.finish(job_id)
        told = stream.result(20)
    assert REFUSED in told[-1]
    assert not [line for line in told if "result" in line or "output" in line]


@pytest.mark.parametrize("ends", [True, False])
def test_a_wait_ends_with_its_key(gateway: Gateway, ends: bool) -> None:
    """At once if the job has ended, and otherwise as soon as the key's end is seen."""
    key = gateway.key()
    with gateway.client(key) as client:
        job_id = client.post("/v1/jobs", json=BODY).json()["id"]

        def wait(method: str, path: str) -> httpx2.Response:
            body = BODY if method == "POST" else None
            return client.request(method, f"{path}?wait=60", json=body, timeout=30)

        with ThreadPoolExecutor(2) as pool:
            got = pool.submit(wait, "GET", f"/v1/jobs/{job_id}")
            posted = pool.submit(wait, "POST", "/v1/jobs")
            _until_both_wait(gateway, key)
            revoke(gateway, key)
            if ends:
                gateway.finish(job_id)
            problem(got.result(30), 401, "unauthorized")
            problem(posted.result(30), 401, "unauthorized")


def _until_both_wait(gateway: Gateway, key: str) -> None:
    """The second job is there, and the key was looked up for both requests."""
    sql = "SELECT count(*) AS jobs FROM jobs JOIN api_keys USING (service) WHERE sha256 = :sha256"
    for _ in range(2000):
        if gateway.query(sql, sha256=digest(key))[0]["jobs"] == 2:
            return
    raise AssertionError("the second job was not inserted")
