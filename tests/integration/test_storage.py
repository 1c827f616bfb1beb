"""The statements that a job's life consists of, on a real Postgres."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from tests.integration.steps import (
    cancel,
    claim,
    dispatch,
    enqueue,
    fail,
    new_job,
    open_usage,
    requeue,
    succeed,
)
from worker.engine.checks import storable
from worker.errors import IdempotencyConflict
from worker.storage import leases, read, rescue
from worker.storage.claim import Claim
from worker.storage.engine import transaction
from worker.storage.enqueue import adopt_job, insert_jobs


@pytest.fixture
def claimed(engine: Engine) -> tuple[Claim, int]:
    """A job that a worker is calling Claude for, and its usage row."""
    (job_id,) = enqueue(engine)
    with transaction(engine) as connection:
        dispatch(connection)
        taken = claim(connection, job_id)
        assert taken is not None
        return taken, open_usage(connection, taken)


def everything(engine: Engine) -> list[Any]:
    """Every row there is."""
    with transaction(engine) as connection:
        tables = ("jobs", "results", "usage")
        return [list(connection.execute(text(f"SELECT * FROM {name}"))) for name in tables]


def in_threads(count: int, act: Callable[[], Any]) -> list[Any]:
    """`act()` in so many threads that all start at once."""
    barrier = Barrier(count)

    def together() -> Any:
        barrier.wait(30)
        return act()

    with ThreadPoolExecutor(count) as pool:
        return [future.result(60) for future in [pool.submit(together) for _ in range(count)]]


# What Postgres itself refuses, whoever writes.


@pytest.mark.parametrize(
    "columns",
    [
        "state = 'lost'",
        "lane = 'fast'",
        "priority = -1",
        "attempt = -1",
        "rescues = -1",
        "max_attempts = 0",
        "state = 'running'",
        "state = 'running', claim_token = gen_random_uuid()",
        "state = 'succeeded'",
        "finished_at = now()",
        "input = NULL",
        "task = NULL",
    ],
)
def test_an_impossible_job_is_refused(engine: Engine, columns: str) -> None:
    enqueue(engine)
    with pytest.raises(IntegrityError), transaction(engine) as connection:
        connection.execute(text(f"UPDATE jobs SET {columns}"))


@pytest.mark.parametrize(
    "columns",
    [
        "outcome = 'fine'",
        "input_tokens = -1",
        "thinking_tokens = -1",
        "cost_usd = -0.1",
        "call = -1",
    ],
)
def test_an_impossible_call_is_refused(
    engine: Engine, claimed: tuple[Claim, int], columns: str
) -> None:
    with pytest.raises(IntegrityError), transaction(engine) as connection:
        connection.execute(text(f"UPDATE usage SET {columns}"))


def test_usage_outlives_its_job_and_the_result_does_not(
    engine: Engine, claimed: tuple[Claim, int]
) -> None:
    with transaction(engine) as connection:
        assert succeed(connection, *claimed)
        connection.execute(text("DELETE FROM jobs"))

    _, results, usage = everything(engine)
    assert results == []
    assert [row.job_id for row in usage] == [None]


# Claim and settle.


def test_of_fifty_claims_at_once_one_wins(engine: Engine) -> None:
    (job_id,) = enqueue(engine)
    with transaction(engine) as connection:
        dispatch(connection)

    def act() -> Claim | None:
        with transaction(engine) as connection:
            return claim(connection, job_id)

    winners = [won for won in in_threads(50, act) if won is not None]

    assert len(winners) == 1
    assert winners[0].attempt == 1
    with transaction(engine) as connection:
        job, _ = read.job_details(connection, job_id)
    assert (job["attempt"], job["claim_token"]) == (1, winners[0].token)


def test_only_a_dispatched_job_that_nobody_cancels_can_be_claimed(engine: Engine) -> None:
    queued, cancelled = enqueue(engine, new_job(), new_job())
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'dispatched', cancel_requested = true WHERE id = :id"),
            {"id": cancelled},
        )
        for job_id in (queued, cancelled, uuid4()):
            assert claim(connection, job_id) is None


SETTLED = {
    succeed: ("succeeded", "ok"),
    requeue: ("queued", "overloaded"),
    fail: ("failed", "refused"),
    cancel: ("cancelled", "interrupted"),
}


@pytest.mark.parametrize("end", SETTLED)
def test_the_holder_of_a_claim_settles_job_and_usage_together(
    engine: Engine, claimed: tuple[Claim, int], end: Callable[..., bool]
) -> None:
    with transaction(engine) as connection:
        assert end(connection, *claimed)

    (job,), _, (usage,) = everything(engine)
    assert (job.state, usage.outcome) == SETTLED[end]
    assert (job.claim_token, job.lease_expires_at) == (None, None)
    assert usage.finished_at is not None


@pytest.mark.parametrize("end", SETTLED)
def test_a_stale_token_changes_nothing_at_all(
    engine: Engine, claimed: tuple[Claim, int], end: Callable[..., bool]
) -> None:
    taken, usage_id = claimed
    with transaction(engine) as connection:  # it was thought dead: somebody else has the job
        assert rescue.rescue_expired(connection, grace=0) == []
        connection.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
        (rescued,) = rescue.rescue_expired(connection, grace=0)
        assert rescued.state == "queued"
    with transaction(engine) as connection:
        dispatch(connection)
        second = claim(connection, taken.id)
        assert second is not None
        open_usage(connection, second)
    before = everything(engine)

    with transaction(engine) as connection:
        assert not end(connection, taken, usage_id)

    assert everything(engine) == before
    assert [row.outcome for row in before[2]] == ["lost", "in_flight"]


@pytest.mark.parametrize("first", SETTLED)
@pytest.mark.parametrize("second", SETTLED)
def test_an_attempt_ends_once(
    engine: Engine,
    claimed: tuple[Claim, int],
    first: Callable[..., bool],
    second: Callable[..., bool],
) -> None:
    with transaction(engine) as connection:
        assert first(connection, *claimed)
    before = everything(engine)

    with transaction(engine) as connection:
        assert not second(connection, *claimed)

    assert everything(engine) == before


def test_a_lost_lease_is_not_renewed(engine: Engine, claimed: tuple[Claim, int]) -> None:
    taken, usage_id = claimed
    with transaction(engine) as connection:
        assert leases.renew(connection, [taken], lease_seconds=30).lost == set()
        requeue(connection, taken, usage_id)
        assert leases.renew(connection, [taken], lease_seconds=30).lost == {taken.token}


# Idempotency, and messages that bring their own input.


def test_fifty_producers_with_one_key_make_one_job(engine: Engine) -> None:
    ids = in_threads(50, lambda: enqueue(engine, new_job(idempotency_key="order-1"))[0])

    assert len(set(ids)) == 1
    assert len(everything(engine)[0]) == 1


def test_batches_with_the_same_keys_in_any_order_do_not_deadlock(engine: Engine) -> None:
    keys = [f"key-{n}" for n in range(200)]
    orders = iter([keys, keys[::-1]] * 4)

    ids = in_threads(
        8, lambda: enqueue(engine, *(new_job(idempotency_key=key) for key in next(orders)))
    )

    assert len({job_id for batch in ids for job_id in batch}) == 200


def test_a_batch_with_old_and_new_keys_keeps_its_order(engine: Engine) -> None:
    (old,) = enqueue(engine, new_job(idempotency_key="b"))
    jobs = [new_job(idempotency_key=key) for key in ("a", "b", "c", "a", None)]

    ids = enqueue(engine, *jobs)

    assert ids == [jobs[0].id, old, jobs[2].id, jobs[0].id, jobs[4].id]


def test_a_key_belongs_to_one_task(engine: Engine) -> None:
    one, two = (new_job(task=task, idempotency_key="k") for task in ("a", "b"))

    assert enqueue(engine, one, two) == [one.id, two.id]


def test_a_key_with_another_input_is_refused_and_nothing_of_the_batch_stays(
    engine: Engine,
) -> None:
    enqueue(engine, new_job(idempotency_key="k", input='{"a": 1, "b": 2}'))
    enqueue(engine, new_job(idempotency_key="k", input='{"b":2,"a":1}'))  # the same as JSON

    with pytest.raises(IdempotencyConflict, match="'k' of t belongs to job"):
        enqueue(engine, new_job(), new_job(idempotency_key="k", input='{"a": 2}'))

    assert len(everything(engine)[0]) == 1


def test_a_message_that_comes_twice_is_one_job(engine: Engine) -> None:
    message = new_job()

    def act() -> None:
        with transaction(engine) as connection:
            adopt_job(connection, message)

    in_threads(20, act)

    assert [row.id for row in everything(engine)[0]] == [message.id]


# Any text that is storable is stored, and comes back the same.

TEXTS = st.text(st.characters(), max_size=30)
DOCUMENTS = st.dictionaries(
    TEXTS,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=10,
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=DOCUMENTS)
def test_whatever_is_made_storable_comes_back_as_it_was(engine: Engine, document: Any) -> None:
    made = json.loads(json.dumps(storable(document)), parse_int=float)  # JSON has one number type
    job = new_job(input=json.dumps(storable(document)))
    with engine.connect() as connection:  # rolled back
        insert_jobs(connection, [job])
        stored = connection.execute(
            text("SELECT input::text FROM jobs WHERE id = :id"), {"id": job.id}
        ).scalar_one()
    assert json.loads(stored, parse_int=float) == made
