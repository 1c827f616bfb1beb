"""Who gets in, and what they see there."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx2
import pytest

from api.problems import Problem
from api.rates import Rates
from tests.gateway import BODY, Gateway, problem
from worker.storage.api_keys import ApiKey, revoke_key
from worker.storage.engine import transaction

STRANGE = [
    "x",
    "cj_",
    "cj_" + "x" * 43,
    "cj_" + "x" * 5000,
    "' OR 1=1 --",
    "cj_" + "é" * 43,
]


@pytest.mark.parametrize("key", STRANGE)
def test_without_a_valid_key_nothing_is_told(gateway: Gateway, key: str) -> None:
    for headers in ({"authorization": f"Bearer {key}".encode()}, {"x-api-key": key.encode()}):
        for path in ("/v1/tasks", "/v1/jobs", f"/v1/jobs/{uuid4()}", "/openapi.json"):
            answer = httpx2.get(gateway.url + path, headers=headers)
            problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer ")
    # Nothing of the body is read, however wrong it is.
    problem(httpx2.post(gateway.url + "/v1/jobs", content=b"{"), 401, "unauthorized")


def test_a_key_works_until_it_has_expired_or_was_revoked(gateway: Gateway) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    with gateway.client(expires_at=past) as client:
        problem(client.get("/v1/jobs"), 401, "unauthorized")
    with gateway.client() as client:
        client.headers["x-api-key"] = client.headers.pop("authorization").removeprefix("Bearer ")
        assert client.get("/v1/jobs").status_code == 200
        used = gateway.query("SELECT id, last_used_at FROM api_keys ORDER BY created_at DESC")[0]
        assert used["last_used_at"] is not None
    with gateway.client() as client:
        newest = gateway.query("SELECT id FROM api_keys ORDER BY created_at DESC LIMIT 1")[0]["id"]
        with transaction(gateway.engine) as connection:
            revoke_key(connection, newest)
        problem(client.get("/v1/jobs"), 401, "unauthorized")


def test_a_key_does_what_its_scopes_allow(gateway: Gateway) -> None:
    job_id = uuid4()
    calls = {
        "enqueue": [
            ("POST", "/v1/jobs"),
            ("POST", "/v1/jobs/batch"),
            ("POST", "/v1/tasks/classify_ticket/jobs"),
        ],
        "read": [
            ("GET", "/v1/jobs"),
            ("GET", f"/v1/jobs/{job_id}"),
            ("GET", f"/v1/jobs/{job_id}/events"),
        ],
        "cancel": [("DELETE", f"/v1/jobs/{job_id}")],
    }
    for given in calls:
        with gateway.client(scopes=[given]) as client:
            for needed, requests in calls.items():
                for method, path in requests:
                    answer = client.request(method, path)
                    if needed == given:
                        assert answer.status_code not in (401, 403), path
                    else:
                        assert needed in problem(answer, 403, "forbidden")["detail"]
            assert client.get("/v1/tasks").status_code == 200


def test_what_came_of_a_job_is_for_keys_that_may_read(gateway: Gateway) -> None:
    """The others get the job itself: when it is enqueued again, and when it is cancelled."""
    service, again = f"s-{uuid4()}", {"idempotency-key": "k"}
    keys = {scope: gateway.key(service, scopes=[scope]) for scope in ("enqueue", "read", "cancel")}
    with gateway.client(keys["enqueue"]) as client:
        job_id = client.post("/v1/jobs", json=BODY, headers=again).json()["id"]
        gateway.finish(job_id)
        replayed = client.post("/v1/jobs", json=BODY, headers=again).json()
        waited = client.post("/v1/jobs?wait=1", json=BODY, headers=again).json()
    with gateway.client(keys["cancel"]) as client:
        cancelled = client.delete(f"/v1/jobs/{job_id}").json()
    with gateway.client(keys["read"]) as client:
        read = client.get(f"/v1/jobs/{job_id}").json()

    assert read["output"] == {"category": "x"}
    for told in (replayed, waited, cancelled):
        assert (told["state"], told["output"], told["error"]) == ("succeeded", None, None)


def test_another_services_job_is_one_that_does_not_exist(gateway: Gateway) -> None:
    with gateway.client() as owner, gateway.client() as other:
        job_id = owner.post("/v1/jobs", json=BODY).json()["id"]
        unknown = str(uuid4())
        for method, path in (
            ("GET", "/v1/jobs/{}"),
            ("GET", "/v1/jobs/{}?wait=1"),
            ("DELETE", "/v1/jobs/{}"),
            ("GET", "/v1/jobs/{}/events"),
            ("GET", "/v1/tasks/classify_ticket/jobs/{}"),
        ):
            theirs = other.request(method, path.format(job_id))
            nobodys = other.request(method, path.format(unknown))
            problem(theirs, 404, "job-not-found")
            assert theirs.content.replace(job_id.encode(), unknown.encode()) == nobodys.content
            varying = {"x-request-id", "date"}
            assert {k: v for k, v in theirs.headers.items() if k not in varying} == {
                k: v for k, v in nobodys.headers.items() if k not in varying
            }
        assert other.get("/v1/jobs").json()["jobs"] == []
        assert owner.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"
        problem(owner.get(f"/v1/tasks/summarize_text/jobs/{job_id}"), 404, "job-not-found")


def test_services_share_no_idempotency_keys(gateway: Gateway) -> None:
    ids = set()
    for _ in range(2):
        with gateway.client() as client:
            answer = client.post("/v1/jobs", json=BODY, headers={"idempotency-key": "order-1"})
            assert answer.status_code == 202
            ids.add(answer.json()["id"])
    assert len(ids) == 2


def test_jobs_of_python_producers_are_nobodys(gateway: Gateway) -> None:
    inserted = gateway.query(
        "INSERT INTO jobs (task, input) VALUES ('classify_ticket', '{}') RETURNING id"
    )
    with gateway.client() as client:
        problem(client.get(f"/v1/jobs/{inserted[0]['id']}"), 404, "job-not-found")


def test_a_key_with_a_limit_is_told_how_it_stands(gateway: Gateway) -> None:
    with gateway.client(requests_per_minute=3) as client:
        answers = [client.get("/v1/tasks") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=3;w=60'
    assert answers[0].headers["ratelimit"] == '"requests";r=2;t=20'
    problem(answers[3], 429, "too-many-requests")
    assert 0 < int(answers[3].headers["retry-after"]) <= 20


def test_without_redis_a_process_counts_by_itself() -> None:
    key = ApiKey(UUID(int=1), "s", "", frozenset({"read"}), 2)

    async def use() -> list[bool]:
        rates = Rates("redis://127.0.0.1:9/0")
        allowed = []
        for _ in range(3):
            try:
                await rates.take(key)
                allowed.append(True)
            except Problem:
                allowed.append(False)
        await rates.close()
        return allowed

    assert asyncio.run(use()) == [True, True, False]
