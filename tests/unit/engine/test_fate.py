"""What becomes of jobs that wait, case by case."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from worker.engine.fate import Complete, FailAll, Fate, Promote, Wait, fate
from worker.storage.followers import Situation


def seen(state: str | None, **facts: Any) -> Situation:
    """A leader's job in `state`, whose claim runs no longer."""
    values: dict[str, Any] = {
        "task": "t",
        "input": {},
        "leader": uuid4(),
        "leader_token": uuid4(),
        "leading": False,
        "state": state,
        "waits": False,
        "in_lane": False,
        "due_in": 0.0,
        "idle": 0.0,
        "attempt": 2,
        "max_attempts": 5,
        "rescues": 1,
        "error": None,
        "result": None,
        "output": None,
    }
    return Situation(**(values | facts))


def failed(type_: str, status: int | None = None, **facts: Any) -> Situation:
    return seen("failed", error={"type": type_, "status": status}, **facts)


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (seen("running", leading=True), Wait()),
        (seen("running"), Wait()),  # claimed again, and about to ask
        (seen("dispatched"), Wait()),
        (seen("queued"), Wait()),  # put back, due at once
        (seen("queued", due_in=4.0), Wait()),
        (seen("queued", due_in=60.0), Promote(2, 1)),
        (seen("queued", waits=True), Promote(2, 1)),  # it follows somebody itself
        (seen("queued", idle=31.0), Promote(2, 1)),  # something holds it
        (seen("dispatched", idle=31.0), Promote(2, 1)),
        (seen("queued", in_lane=True, due_in=600.0), Wait()),  # its batch was not taken
        (seen("queued", in_lane=True, idle=900.0), Wait()),  # until there are enough for a batch
        (seen("queued", in_lane=True, idle=3601.0), Promote(2, 1)),
        (seen("queued", in_lane=True, waits=True), Promote(2, 1)),
        (seen("running", idle=31.0), Promote(0, 1)),  # with something else
        (seen("running", leading=True, idle=3600.0), Wait()),
        (seen("cancelled"), Promote(0, 1)),
        (seen("succeeded"), Promote(0, 1)),  # its result is gone, or accepted no longer
        (seen(None, rescues=0), Promote(0, 0)),
        (failed("refused"), FailAll(2**31 - 1)),
        (failed("invalid_request_error", 400), FailAll(2**31 - 1)),
        (failed("invalid_request_error"), FailAll(2**31 - 1)),  # of a batch
        (failed("permission_error"), Promote(0, 1)),
        (failed("worker_lost"), FailAll(2**31 - 1)),
        (failed("budget_spent"), FailAll(2**31 - 1)),
        (failed("overloaded", 529), Promote(2, 1)),  # its deadline passed
        (failed("overloaded", 529, attempt=5), FailAll(5)),
        (failed("invalid_output", attempt=5), FailAll(5)),
        (failed("authentication_error", 401, attempt=5), Promote(0, 1)),
        (failed("no_capacity", attempt=5), Promote(0, 1)),
        (failed("rate_limited", 429, attempt=5), Promote(0, 1)),
    ],
)
def test_without_a_result(situation: Situation, expected: Fate) -> None:
    assert fate(situation, servable=False) == expected


@pytest.mark.parametrize("state", ["succeeded", "failed", "queued", "cancelled", None])
def test_a_result_goes_to_all(state: str | None) -> None:
    assert fate(seen(state), servable=True) == Complete()


def test_while_the_request_is_made_an_older_result_is_not_given_out() -> None:
    assert fate(seen("running", leading=True), servable=True) == Wait()


@pytest.mark.parametrize("situation", [failed("refused"), failed("overloaded", attempt=5)])
def test_who_is_left_when_all_were_failed_that_had_to_be_goes_ahead(situation: Situation) -> None:
    assert isinstance(fate(situation, servable=False, spread=False), Promote)
