"""The words around a review's figures that page and terminal share."""

from __future__ import annotations

from collections.abc import Callable

from worker.report.amounts import dollars, percent
from worker.report.weekly import WeeklyReview
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


def advice(name: str, limit: int | None, what: str, suggested: int) -> str:
    """What to do about a prompt version's `max_tokens`."""
    return f"{what} max_tokens of {name} from {limit or 0:,} to {suggested:,}"
