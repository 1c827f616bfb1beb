from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.evals.spending import Spending

CENT = Decimal("0.01")


def call(cost: Decimal | None, outcome: str = "ok") -> dict[str, Any]:
    return {"cost_usd": cost, "outcome": outcome, "complete": outcome == "ok"}


def test_a_job_waits_while_others_may_use_up_what_it_needs() -> None:
    spending = Spending(Decimal("0.10"))

    assert not spending.must_wait(Decimal(5))
    spending.reserve(6 * CENT)
    assert not spending.must_wait(4 * CENT)
    assert spending.must_wait(5 * CENT)
    spending.settle(6 * CENT, [call(CENT)])
    assert not spending.must_wait(Decimal(5))
    assert not spending.used_up


def test_a_call_whose_cost_nobody_knows_counts_at_its_worst() -> None:
    spending = Spending(Decimal("0.10"))
    for outcome in ("ok", "lost", "timeout"):
        spending.reserve(4 * CENT)
        spending.settle(4 * CENT, [call(None, outcome), call(None, "overloaded")])

    assert spending.known == 0
    assert spending.unpriced == 3
    assert spending.used_up


@given(
    jobs=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), max_size=60),
    cap=st.integers(1, 200),
    slots=st.integers(1, 8),
)
def test_the_cap_is_exceeded_by_one_job_at_most(
    jobs: list[tuple[int, int]], cap: int, slots: int
) -> None:
    """`jobs`: the most that each may cost, in cents, and how much of it (%) it does."""
    spending = Spending(cap * CENT)
    running: list[tuple[Decimal, Decimal]] = []
    dearest = Decimal(0)

    def end_one() -> None:
        worst, cost = running.pop(0)
        spending.settle(worst, [call(cost)])

    for most, share in jobs:
        worst = most * CENT
        while running and (len(running) == slots or spending.must_wait(worst)):
            end_one()
        if spending.used_up:
            break
        spending.reserve(worst)
        dearest = max(dearest, worst)
        running.append((worst, worst * share / 100))
    while running:
        end_one()

    assert spending.spent <= spending.cap + dearest
    assert spending.in_flight == 0
    assert spending.reserved == 0
