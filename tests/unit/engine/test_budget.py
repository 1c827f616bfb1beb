from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from tasks import summarize_text
from worker.engine.budget import Spent
from worker.storage.settle import CallRecord

CALL = CallRecord(
    outcome="ok",
    input_tokens=1,
    cache_read_tokens=2,
    cache_write_5m_tokens=4,
    cache_write_1h_tokens=8,
    output_tokens=16,
    thinking_tokens=5,
    cost_usd=Decimal("0.25"),
)
TASK = replace(summarize_text, token_budget=62, cost_budget=Decimal("0.75"))


def test_every_kind_of_token_counts_once() -> None:
    # Thinking is part of the output.
    assert Spent().plus(CALL) == Spent(tokens=31, usd=Decimal("0.25"))


def test_a_call_without_a_price_still_counts_its_tokens() -> None:
    assert Spent().plus(replace(CALL, cost_usd=None)) == Spent(tokens=31)


@pytest.mark.parametrize(
    ("spent", "said"),
    [
        (Spent(61, Decimal("0.74")), None),
        (Spent(62), "the job has used 62 of its 62 tokens"),
        (Spent(1, Decimal("0.75")), "the job has cost $0.75 of its $0.75"),
    ],
)
def test_a_budget_is_used_up_when_nothing_of_it_is_left(spent: Spent, said: str | None) -> None:
    assert spent.beyond(TASK) == said


def test_a_task_may_have_no_budget() -> None:
    boundless = replace(TASK, token_budget=None, cost_budget=None)

    assert Spent(10**12, Decimal(10**9)).beyond(boundless) is None
