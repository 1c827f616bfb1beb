"""Many jobs in one request."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from api.resources import BatchOutcome
from tests.gateway import BODY, TICKET, problem


def test_a_batch_tells_of_each(client: httpx2.Client) -> None:
    bodies = [
        BODY,
        {"task": "nope", "input": {}},
        BODY | {"idempotency_key": "same"},
        BODY | {"idempotency_key": "same"},
        BODY | {"idempotency_key": "same", "input": TICKET | {"body": "another"}},
        "no object",
        BODY | {"input": {}},
    ]
    answer = client.post("/v1/jobs/batch", json={"jobs": bodies})

    assert answer.status_code == 200
    outcome = BatchOutcome.model_validate_json(answer.content)
    assert (outcome.enqueued, outcome.refused) == (3, 4)
    kinds = [item.problem and item.problem.type.rpartition(":")[2] for item in outcome.jobs]
    assert kinds == [
        None,
        "unknown-task",
        None,
        None,
        "idempotency-conflict",
        "invalid-input",
        "invalid-input",
    ]
    assert [item.created for item in outcome.jobs[2:4]] == [True, False]
    assert outcome.jobs[2].id == outcome.jobs[3].id
    listed = {job["id"] for job in client.get("/v1/jobs").json()["jobs"]}
    assert listed == {str(outcome.jobs[0].id), str(outcome.jobs[2].id)}


def test_a_batch_can_be_sent_again_as_it_is(client: httpx2.Client) -> None:
    jobs = {"jobs": [BODY | {"priority": n % 9} for n in range(2000)]}
    once, twice = (
        client.post("/v1/jobs/batch", json=jobs, headers={"idempotency-key": "import-7"}).json()
        for _ in range(2)
    )
    assert (once["enqueued"], once["refused"]) == (2000, 0)
    assert [job["id"] for job in once["jobs"]] == [job["id"] for job in twice["jobs"]]
    assert not any(job["created"] for job in twice["jobs"])


@pytest.mark.parametrize("body", [{}, {"jobs": []}, {"jobs": {}}, {"jobs": [BODY], "x": 1}, 1])
def test_a_batch_is_a_list_of_jobs(client: httpx2.Client, body: Any) -> None:
    problem(client.post("/v1/jobs/batch", json=body), 422, "invalid-input")


def test_a_batch_has_ten_thousand_jobs_at_most(client: httpx2.Client) -> None:
    body = {"jobs": [1] * 10_001}
    assert (
        "10,000"
        in problem(client.post("/v1/jobs/batch", json=body), 422, "invalid-input")["detail"]
    )
