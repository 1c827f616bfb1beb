"""What the figures of a review leave out, said so that nobody takes them for more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from worker.report.period import Period
from worker.report.rows import Row, total_by, within

_MOST_NAMES = 5


def notes(period: Period, rows: Sequence[Row], first_day: date | None) -> list[str]:
    """One sentence each; `first_day` is the first with any usage at all."""
    found = []
    if period.days < 7:
        over = "day is" if period.days == 1 else "days are"
        found.append(
            f"{period.days} {over} over of this week; they are compared with the same days of "
            "the week before."
        )
    before = period.before
    if first_day is not None and before.start < first_day < before.end:
        missing = (first_day - before.start).days
        found.append(
            f"Of the week before, the first {missing} days have no calls: usage begins on "
            f"{first_day.isoformat()}, so the comparison says little."
        )
    of_week = within(rows, period)
    found += _unpriced(of_week)
    return found


def _unpriced(rows: Sequence[Row]) -> list[str]:
    found = []
    by_model = total_by(rows, lambda row: row.model)
    unpriced = {model: each.unpriced for model, each in by_model.items() if each.unpriced}
    if unpriced:
        found.append(
            f"{_count(unpriced)} no price, and no cost in any figure here "
            f"({_named(unpriced)}). Update genai-prices, or name the models in "
            "CLAUDE_JOBS_PRICES_FILE, and run `claude-jobs usage reprice`."
        )
    partly = {m: each.without_full_cost for m, each in by_model.items() if each.without_full_cost}
    if partly:
        found.append(
            f"{_count(partly)} a cost but no full price, so what they saved is not "
            f"counted ({_named(partly)}). Run `claude-jobs usage reprice`."
        )
    if in_flight := sum(row.figures.in_flight for row in rows):
        found.append(f"{in_flight:,} calls of the week had not ended when this was made.")
    return found


def _count(by_model: dict[str, int]) -> str:
    count = sum(by_model.values())
    return "1 call has" if count == 1 else f"{count:,} calls have"


def _named(by_model: dict[str, int]) -> str:
    names = sorted(by_model, key=lambda model: (-by_model[model], model))
    listed = ", ".join(f"{name}: {by_model[name]:,}" for name in names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{listed} and {more} more models" if more > 0 else listed
