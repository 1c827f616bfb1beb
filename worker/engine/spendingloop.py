"""The loop beside the calls: hears of budgets, books what calls did cost, and tells people.

Every worker runs it. What it does for the fleet is done under locks, so one more worker that does
it changes nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC

from sqlalchemy import RowMapping

from worker.engine.alerts import announce
from worker.engine.finding import Finding
from worker.engine.loops import Loop
from worker.engine.settling import DEADLINE_AHEAD
from worker.engine.spending import Spending
from worker.storage import budgets, spending
from worker.storage.engine import autocommit, transaction
from worker.storage.spending import dollars

_INTERVAL = 1.0
#: Between two looks of the whole fleet at all reservations – of workers that died, or could not
#: book – and at what people should be told.
_SWEEP_SECONDS = 3.0
_TIDY_SECONDS = 300.0
_KEEP_WINDOWS_DAYS = 400


class SpendingLoop(Loop):
    """Keeps `spending_` up to date, and the budgets' sums.

    `models` is each task's model, `processes` how many run this loop.
    """

    name = "spending"

    def __init__(
        self, spending_: Spending, models: Mapping[str, str], processes: Callable[[], int]
    ) -> None:
        super().__init__()
        self._spending = spending_
        self._models = models
        self._processes = processes
        self._sweep_at = 0.0
        self._tidy_at = 0.0

    def step(self) -> float:
        with autocommit() as connection:
            if not self._spending.keep_up(connection):
                return _INTERVAL
        self._spending.book()
        now = time.monotonic()
        if now >= self._sweep_at:
            share = _SWEEP_SECONDS * self._processes()
            self._sweep_at = now + share * random.uniform(0.5, 1.5)  # noqa: S311 – spreads them
            self._sweep()
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_SECONDS
            self._tidy()
        return _INTERVAL * random.uniform(0.7, 1.3)  # noqa: S311 – spreads the workers

    def _sweep(self) -> None:
        with autocommit() as connection:
            spending.book(connection)
        with transaction() as connection:
            spending.count_once_more(connection)
        with transaction() as connection:
            crossed = budgets.crossed(connection)
            findings = sorted(map(finding, crossed), key=lambda each: (each.kind, each.subject))
            raised = [each.put(connection) for each in findings]
        announce(raised)

    def _tidy(self) -> None:
        with transaction() as connection:
            budgets.keep_deadlines(connection, self._models, ahead=DEADLINE_AHEAD)
        with transaction() as connection:
            spending.prune(connection, older_than=_KEEP_WINDOWS_DAYS * 86400.0)


def finding(row: RowMapping) -> Finding:
    """What people are told of a budget that came to a threshold, or holds jobs."""
    used = row["spent_usd"] + row["reserved_usd"]
    until = f"{row['ends_at'].astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    share = f"${dollars(used)} of ${dollars(row['amount_usd'])}"
    if row["exhausted"]:
        message = (
            f"{share} is spent or promised, so its jobs are held until {until}: raise it with "
            "`claude-jobs budgets raise`, or see `claude-jobs usage` for what used it up"
        )
    else:
        message = (
            f"{share} ({row['percent']} %) is spent or promised, and the window ends {until}: see "
            "`claude-jobs usage` for what uses it, and `claude-jobs budgets`"
        )
    details = {
        "percent": row["reached"],
        "spent_usd": str(row["spent_usd"]),
        "reserved_usd": str(row["reserved_usd"]),
        "amount_usd": str(row["amount_usd"]),
        "starts_at": row["starts_at"].isoformat(),
        "ends_at": row["ends_at"].isoformat(),
    }
    kind = "budget_exhausted" if row["exhausted"] else "budget_threshold"
    # Never a repetition: each threshold of a window is told once.
    return Finding(kind, row["label"], message, details, repeat_seconds=0)
