"""The threads of a process ask Postgres together, and nobody takes silence for a yes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Semaphore

import pytest
from sqlalchemy import event, text

from worker.engine.spending import (
    BatchRequest,
    BudgetExhausted,
    LedgerUnavailable,
    Spending,
    expected_usd,
)
from worker.errors import Failure
from worker.limits.types import Cost
from worker.storage import budgets
from worker.storage.budgets import Which
from worker.storage.engine import get_engine, transaction
from worker.storage.spending import Purchase, lock

pytestmark = pytest.mark.usefixtures("producer")

HAIKU = "claude-haiku-5-5"


def put(which: Which, amount: str) -> None:
    with transaction() as connection:
        budgets.put(connection, which, Decimal(amount), hard=True, alert_at=[], by="test")


def hear(spending: Spending) -> bool:
    with transaction() as connection:
        return spending.keep_up(connection)


def wanted(usage_id: int) -> Purchase:
    return Purchase(usage_id, "t", None, HAIKU, "interactive", Decimal("0.01"))


def test_threads_that_ask_while_another_waits_are_one_statement() -> None:
    put(Which("all", "", "day"), "0.50")
    spending = Spending()
    assert hear(spending)
    statements: list[str] = []
    event.listen(get_engine(), "before_cursor_execute", lambda *of: statements.append(of[2]))
    asking = Semaphore(0)

    def ask(usage_id: int) -> Failure | None:
        asking.release()
        try:
            spending.reserve(wanted(usage_id))
        except BudgetExhausted as refused:
            return refused.failure if refused.held else None
        return None

    with ThreadPoolExecutor(200) as pool:
        with transaction() as connection:
            lock(connection)  # the first waits for this in Postgres, and all others behind it
            answers = [pool.submit(ask, usage_id) for usage_id in range(1, 201)]
            for _ in answers:
                asking.acquire()
        failures = [failure for answer in answers if (failure := answer.result())]

    assert len(failures) == 150
    assert {failure.type for failure in failures} == {"budget_exhausted"}
    assert "the budget all per day of $0.50 is used up until" in failures[0].summary
    assert sum("reserve_spending" in each for each in statements) < 50
    with transaction() as connection:
        (row,) = budgets.status(connection, limit=1)
    assert (row["reserved_usd"], row["left_usd"]) == (Decimal("0.5"), 0)


def test_all_who_asked_hear_that_postgres_could_not_be_asked() -> None:
    put(Which("all", "", "day"), "1")
    spending = Spending()
    hear(spending)
    with transaction() as connection:
        connection.execute(text("DROP FUNCTION reserve_spending"))

    def ask(usage_id: int) -> float:
        with pytest.raises(LedgerUnavailable) as refused:
            spending.reserve(wanted(usage_id))
        return refused.value.wait

    with ThreadPoolExecutor(20) as pool:
        assert all(wait > 0 for wait in pool.map(ask, range(60)))


def test_a_budget_that_a_claim_has_brought_is_known_before_its_call() -> None:
    spending = Spending()
    assert not hear(spending)
    put(Which("task", "t", "day"), "1")
    with transaction() as connection:
        newest = connection.execute(text("SELECT max(id) FROM budgets")).scalar_one()
    assert not spending.concerns("t", None, HAIKU, "interactive")
    spending.catch_up(newest)
    assert spending.concerns("t", None, HAIKU, "interactive")
    assert not spending.concerns("u", None, HAIKU, "interactive")
    with transaction() as connection:
        budgets.remove(connection, Which("task", "t", "day"))
    assert not hear(spending)


def test_requests_of_a_batch_are_reserved_at_half_price() -> None:
    expected = Cost(100_000, 10_000)
    one = expected_usd(HAIKU, expected)
    assert expected_usd(HAIKU, expected, batch=True) == one / 2 > 0
    put(Which("all", "", "day", "batch"), f"{one * 2:f}")
    put(Which("all", "", "day", "interactive"), "0")
    requests = [BatchRequest(n, "t", None, HAIKU, expected) for n in range(1, 7)]

    with transaction() as connection:
        refused = Spending().reserve_batch(connection, requests)

    assert sorted(refused) == [5, 6]
    assert {each.failure.type for each in refused.values()} == {"budget_exhausted"}


def test_a_model_without_a_price_costs_nothing_that_is_known() -> None:
    assert expected_usd("claude-unheard-of", Cost(1e6, 1e6)) == 0
