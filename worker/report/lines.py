"""The breakdowns: a week and the one before by task, prompt version, model and user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from sqlalchemy import Connection

from worker.report.amounts import apportion, rounded
from worker.report.period import Period
from worker.report.rows import Row, total_by, within
from worker.report.weekly import Dimension, Line
from worker.storage import reporting
from worker.storage.figures import Figures, total

#: Lines of a dimension that have a name of their own.
MOST_LINES, MOST_USERS = 12, 10
NOBODY = "no user"

_KEYS: dict[Dimension, Callable[[Row], str]] = {
    "task": lambda row: row.task,
    "prompt version": lambda row: row.prompt_version,
    "model": lambda row: row.model,
}


def read_lines(
    connection: Connection, rows: Sequence[Row], period: Period, unit: Decimal
) -> dict[Dimension, list[Line]]:
    """The lines of every dimension, the dearest first; the last one sums up what has none.

    `rows` go back as far as `period.history`. Each dimension adds up to the same, also as shown.
    """
    now, before = (
        rounded(total(row.figures for row in within(rows, part)).cost_usd, unit)
        for part in (period, period.before)
    )
    found: dict[Dimension, list[Line]] = {
        dimension: _lines(rows, key, period) for dimension, key in _KEYS.items()
    }
    found["user"] = _users(connection, period)
    return {dimension: _shown(lines, now, before, unit) for dimension, lines in found.items()}


def _lines(rows: Sequence[Row], key: Callable[[Row], str], period: Period) -> list[Line]:
    now, before = (total_by(within(rows, part), key) for part in (period, period.before))
    names = sorted(
        {*now, *before},
        key=lambda name: (
            -now.get(name, Figures()).cost_usd,
            -before.get(name, Figures()).cost_usd,
            name,
        ),
    )
    # One line is not worth an "others" in its place.
    named = names if len(names) <= MOST_LINES + 1 else names[:MOST_LINES]
    weeks = [total_by(within(rows, week), key) for week in period.history]
    groups = [(name, [name]) for name in named]
    if rest := names[len(named) :]:
        groups.append((f"{len(rest):,} others", rest))
    return [
        Line(
            label,
            total(now.get(name, Figures()) for name in members),
            total(before.get(name, Figures()) for name in members),
            weeks=tuple(
                sum((week[name].cost_usd for name in members if name in week), Decimal(0))
                for week in weeks
            ),
        )
        for label, members in groups
    ]


def _users(connection: Connection, period: Period) -> list[Line]:
    before = period.before
    found = reporting.users(
        connection, period.start, period.end, before.start, before.end, most=MOST_USERS
    )
    return [
        Line(
            _user(row.place, row.user_id, row.users),
            Figures(jobs=row.jobs, cost_usd=row.cost_usd, unpriced=row.unpriced),
            Figures(jobs=row.jobs_before, cost_usd=row.cost_usd_before),
        )
        for row in found
    ]


def _user(place: int, user_id: str | None, users: int) -> str:
    if place > MOST_USERS:
        return f"{users:,} others"
    return NOBODY if user_id is None else user_id


def _shown(found: Sequence[Line], now: Decimal, before: Decimal, unit: Decimal) -> list[Line]:
    shown = apportion([line.now.cost_usd for line in found], now, unit)
    shown_before = apportion([line.before.cost_usd for line in found], before, unit)
    return [
        replace(line, shown=a, shown_before=b)
        for line, a, b in zip(found, shown, shown_before, strict=True)
    ]
