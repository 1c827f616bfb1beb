"""What hard budgets leave the relay to send."""

from __future__ import annotations

from decimal import Decimal

import pytest

from worker.engine.holds import Holds
from worker.storage.dispatch import BudgetRoom
from worker.storage.spending import dollars, label


def room(scope: str, subject: str = "", **options: float | bool | None) -> BudgetRoom:
    return BudgetRoom(scope, subject, **{"held": False, "left": 1.0, "mean": 0.1} | options)


def test_what_is_held_is_held_by_task_model_or_altogether() -> None:
    assert Holds([room("all", held=True)]).hold("any", "m")
    tasks = Holds([room("task", "a", held=True), room("task", "b")])
    assert tasks.hold("a", "m")
    assert not tasks.hold("b", "m")
    models = Holds([room("model", "m", held=True)])
    assert models.hold("a", "m")
    assert models.hold("a", "m-20260901")
    assert not models.hold("a", "m-5")
    assert not Holds([]).hold("a", "m")


def test_users_are_held_one_by_one() -> None:
    holds = Holds([room("user", "eve", held=True), room("task", "a", held=True)])
    assert holds.users == ["eve"]
    assert not holds.hold("b", "m")


def test_as_many_fit_as_calls_have_cost_on_average_and_one_at_least() -> None:
    holds = Holds(
        [
            room("all", left=1.0, mean=0.3),
            room("all", left=0.6, mean=0.3),
            room("task", "a", left=0.01, mean=0.3),
            room("model", "m", mean=None),
        ]
    )
    assert [holds.fits[key] for key in holds.keys("a", "m")] == [2, 1]
    assert [holds.fits[key] for key in holds.keys("b", "m")] == [2]


@pytest.mark.parametrize(
    ("amount", "text"),
    [("5", "5.00"), ("1234.5", "1,234.50"), ("0.00012070", "0.0001207"), ("0", "0.00")],
)
def test_dollars_have_as_many_places_as_they_need(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text


def test_a_budget_in_words() -> None:
    assert label("all", "", "day", None) == "all per day"
    assert label("user", "eve", "month", "batch") == "user:eve per month (batch)"
