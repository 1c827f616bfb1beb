"""The words around a review's figures that page and terminal share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from worker.report.amounts import apportion, dollars, percent, rounded
from worker.report.weekly import SAVINGS, WeeklyReview
from worker.storage.figures import Figures, ratio

#: What the rates of a week are called, and how each is calculated: a share of what.
RATES: tuple[tuple[str, str, Callable[[Figures], float | None]], ...] = (
    ("Truncated", "of the replies", lambda f: ratio(f.truncated, f.replies)),
    ("Invalid", "of the replies", lambda f: ratio(f.invalid_output, f.replies)),
    ("Refused", "of the replies", lambda f: ratio(f.refused, f.replies)),
    ("Asked again", "of the jobs that called", lambda f: ratio(f.follow_ups, asked(f))),
    ("Failed calls", "of the calls", lambda f: ratio(f.failed, f.calls)),
    ("Rate-limited", "of the calls", lambda f: ratio(f.rate_limited, f.calls)),
)

#: Tasks and prompt versions that are listed.
MOST_TASKS = 12


def asked(figures: Figures) -> int:
    """Jobs that made calls of their own."""
    return max(figures.jobs - figures.hits, 0)


def headline(review: WeeklyReview) -> str:
    """The week in one sentence."""
    if review.empty:
        return "Nothing was asked and nothing was spent."
    spent = f"{dollars(review.cost)} spent"
    if not review.compared:
        return f"{spent}; there is no week before to compare it with."
    change = review.change
    if not change:
        return f"{spent}, the same as the week before."
    word = "more" if change > 0 else "less"
    share = ratio(abs(change), review.cost_before)
    by = f" ({percent(share)})" if share is not None and share < 10 else ""
    return f"{spent}, {dollars(abs(change))}{by} {word} than the week before."


@dataclass(frozen=True, slots=True)
class Savings:
    """What was saved by each way this week and the week before, as shown; it adds up."""

    lines: Sequence[tuple[str, Decimal, Decimal]]
    now: Decimal
    before: Decimal


def savings(review: WeeklyReview) -> Savings:
    """What caches, coalescing and batches saved."""
    columns, totals = [], []
    for figures in (review.now, review.before):
        total = rounded(figures.full_cost_usd, review.unit) - rounded(figures.cost_usd, review.unit)
        exact = [getattr(figures, column) for _, column in SAVINGS]
        columns.append(apportion(exact, total, review.unit))
        totals.append(total)
    names = [name for name, _ in SAVINGS]
    return Savings([*zip(names, *columns, strict=True)], *totals)


def rates(review: WeeklyReview) -> list[tuple[str, Figures, float | None]]:
    """For each task its figures and the share of its jobs that failed, the busiest first."""
    busiest = sorted(review.tasks, key=lambda task: (-review.tasks[task].jobs, task))[:MOST_TASKS]
    rows: list[tuple[str, Figures, float | None]] = [
        (task, review.tasks[task], review.ends[task].failed_share if task in review.ends else None)
        for task in busiest
    ]
    failed = sum(each.failed for each in review.ends.values())
    ended = failed + sum(each.succeeded for each in review.ends.values())
    return [*rows, ("all tasks", review.now, ratio(failed, ended))]
