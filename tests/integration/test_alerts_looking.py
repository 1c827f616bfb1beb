"""Every call is looked at once, whoever looks and whatever dies."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from tests.integration.alerts_world import (
    BOUNDS,
    another,
    calls,
    ended,
    execute,
    look,
    rows,
    uninspected,
)
from worker.engine.alerts import AlertLoop
from worker.storage import alerts, inspection
from worker.storage.engine import transaction

__all__ = ["another"]  # the fixture

pytestmark = pytest.mark.usefixtures("producer")


def test_a_call_is_found_when_its_transaction_commits_however_late(another: Engine) -> None:
    with another.connect() as slow, slow.begin() as unfinished:
        calls(slow, 8000)
        for n in range(3):
            ended(6000 + n)
            look()
        assert [row["count"] for row in rows()] == [3]
        unfinished.commit()

    look()

    assert [row["count"] for row in rows()] == [4]
    assert uninspected() == 0


def test_calls_that_end_in_another_order_than_they_began() -> None:
    ended(0, 0, 0, ended=False, outcome="in_flight", complete=False)
    ids = [row["id"] for row in rows("SELECT id FROM usage ORDER BY id")]
    for done, call_id in enumerate([ids[2], ids[0], ids[1]], start=1):
        execute(
            "UPDATE usage SET outcome = 'ok', complete = true, output_tokens = 6000, cost_usd = 1,"
            f" finished_at = now() - interval '1 day' WHERE id = {call_id}"
        )
        look()
        assert [row["count"] for row in rows()] == [done]


def test_many_workers_look_at_once_and_each_call_counts_once(another: Engine) -> None:
    together = Barrier(9)
    assert rows() == []  # this process's pool is built by one thread

    def worker(_: int) -> None:
        together.wait(30)
        for _ in range(30):
            AlertLoop(BOUNDS).step()

    def produce() -> None:
        together.wait(30)
        for _ in range(40):
            with transaction(another) as connection:
                calls(connection, *[6000] * 25)

    with ThreadPoolExecutor(9) as threads:
        everybody = [threads.submit(produce), *(threads.submit(worker, n) for n in range(8))]
        for done in everybody:
            done.result(60)
    look()

    assert [row["count"] for row in rows()] == [1000]
    assert rows("SELECT calls FROM reply_lengths") == [{"calls": 1000}]


def test_a_look_that_dies_never_was(another: Engine, eventually: Callable[..., None]) -> None:
    ended(6000)
    with another.connect() as dying:
        dying.begin()
        assert inspection.try_lock(dying)
        assert len(inspection.take_ended_calls(dying, 10)) == 1
        alerts.raise_alert(dying, "output_bound", "summarize_text", "…", {})
        assert AlertLoop(BOUNDS).step() > 0  # somebody else is looking: later
        pid = dying.execute(text("SELECT pg_backend_pid()")).scalar_one()
        execute(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(OperationalError):
            dying.execute(text("SELECT 1"))
        dying.rollback()

    def looked() -> bool:
        look()
        return [row["count"] for row in rows()] == [1]

    eventually(looked, "the call was lost")


def test_a_row_that_somebody_else_holds_is_left_for_the_next_look(another: Engine) -> None:
    ended(6000, 6000)
    with another.connect() as other, other.begin():
        other.execute(text("SELECT FROM usage ORDER BY id LIMIT 1 FOR UPDATE"))
        look()
        assert [row["count"] for row in rows()] == [1]

    look()

    assert [row["count"] for row in rows()] == [2]


def test_a_look_reads_what_is_new_however_much_there_is() -> None:
    ended(*[10] * 20_000)
    execute("UPDATE usage SET inspected = true")
    ended(6000)
    execute("ANALYZE usage")

    plan = rows(
        "EXPLAIN SELECT id FROM usage WHERE finished_at IS NOT NULL AND NOT inspected"
        " ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED"
    )

    assert any("usage_uninspected" in row["QUERY PLAN"] for row in plan), plan
