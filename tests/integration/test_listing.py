"""Jobs page by page, and one service's apart from another's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from tests.integration.steps import claim, dispatch, enqueue, new_job, open_usage, succeed
from worker.errors import IdempotencyConflict, InvalidInput
from worker.storage.engine import transaction
from worker.storage.listing import Position, find_job, list_jobs


def listed(engine: Engine, **wanted: Any) -> list[UUID]:
    """The ids of all pages, of two jobs each, through their cursors."""
    found: list[UUID] = []
    after = None
    while True:
        with transaction(engine) as connection:
            page = list_jobs(connection, **{"service": None} | wanted, after=after, limit=2)
        found += [job["id"] for job in page.jobs]
        if page.next is None:
            return found
        assert len(page.jobs) == 2
        after = Position.from_cursor(page.next.as_cursor())


def test_pages_hold_every_job_once_the_newest_first(engine: Engine) -> None:
    # Of one transaction: they were all created at the same moment.
    together = enqueue(engine, *(new_job(service="shop") for _ in range(5)))
    later = enqueue(engine, new_job(service="shop", task="u", user_id="x"))
    enqueue(engine, new_job(service="mail"), new_job())

    assert listed(engine, service="shop") == later + sorted(together, reverse=True)
    assert listed(engine, service="shop", task="u", user_id="x", state="queued") == later
    assert listed(engine, service="shop", state="failed") == []
    assert listed(engine, service="nobody") == []
    assert len(listed(engine)) == 8


def test_a_page_goes_on_where_the_last_one_ended_whatever_came_meanwhile(engine: Engine) -> None:
    old = [enqueue(engine, new_job(service="shop"))[0] for _ in range(3)]
    with transaction(engine) as connection:
        first = list_jobs(connection, service="shop", limit=2)
    enqueue(engine, new_job(service="shop"))
    with transaction(engine) as connection:
        second = list_jobs(connection, service="shop", limit=2, after=first.next)

    assert [job["id"] for page in (first, second) for job in page.jobs] == old[::-1]


def test_a_job_is_found_by_its_own_service_and_with_what_it_used(engine: Engine) -> None:
    (job_id,) = enqueue(engine, new_job(service="shop"))
    with transaction(engine) as connection:
        dispatch(connection)
        taken = claim(connection, job_id)
        assert taken is not None
        succeed(connection, taken, open_usage(connection, taken))
        found = find_job(connection, job_id, service="shop")
        assert find_job(connection, job_id, service=None) == found
        assert find_job(connection, job_id, service="mail") is None
        assert find_job(connection, uuid4(), service=None) is None

    assert found is not None
    assert (found["state"], found["output"], found["calls"]) == ("succeeded", {"a": 1}, 1)
    assert (found["input_tokens"], found["output_tokens"], found["cost_usd"]) == (5, 0, 0)


def test_a_cursor_that_was_not_given_out_is_one_line() -> None:
    no_zone = Position(datetime.min, uuid4()).as_cursor()
    for cursor in ("", "x", "é", "AAAA", "\0", no_zone):
        with pytest.raises(InvalidInput, match="cursor: not one that was given out"):
            Position.from_cursor(cursor)


def test_a_cursor_says_everything() -> None:
    position = Position(datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), uuid4())

    assert Position.from_cursor(position.as_cursor()) == position


def test_an_idempotency_key_is_a_service_s_own(engine: Engine) -> None:
    mine, other, nobody = (
        enqueue(engine, new_job(service=service, idempotency_key="k", input=f'{{"n": {n}}}'))[0]
        for n, service in enumerate(["shop", "mail", None])
    )

    assert len({mine, other, nobody}) == 3
    again = [
        new_job(service=service, idempotency_key="k", input=f'{{"n": {n}}}')
        for n, service in enumerate(["shop", "mail", None])
    ]
    assert enqueue(engine, *again) == [mine, other, nobody]
    with pytest.raises(IdempotencyConflict, match="different input"):
        enqueue(engine, new_job(service="shop", idempotency_key="k", input='{"n": 1}'))


def test_a_service_s_page_is_read_from_its_own_index(engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(
            text("""
            INSERT INTO jobs (task, input, service, created_at)
            SELECT 't', '{}', CASE WHEN n % 100 = 0 THEN 'shop' ELSE 'mail' END,
                   now() - n * interval '1 second'
            FROM generate_series(1, 20000) AS n
            """)
        )
        connection.execute(text("ANALYZE jobs"))
        plan = connection.execute(
            text("""EXPLAIN SELECT * FROM jobs WHERE service = 'shop'
                    AND (created_at, id) < (now(), gen_random_uuid())
                    ORDER BY created_at DESC, id DESC LIMIT 50""")
        ).scalars()

    assert "Index Scan Backward using jobs_by_service" in "\n".join(plan)
