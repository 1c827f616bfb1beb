"""From the views to a review."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from sqlalchemy import Connection, text

from worker.claude.pricing import full_cost_usd
from worker.claude.reply import Tokens
from worker.report import change
from worker.report.amounts import apportion, rounded, unit_for
from worker.report.lines import read_lines
from worker.report.notes import notes
from worker.report.period import Period
from worker.report.replies import read_lengths
from worker.report.rows import Row, grouped, read_rows, total_by, within
from worker.report.sentences import Busiest, Explanation, Release, explain_cause
from worker.report.weekly import Day, DayLength, Ends, WeeklyReview
from worker.storage import reporting
from worker.storage import usage as ledger
from worker.storage.figures import Figures, total

MOST_SENTENCES, MOST_JOBS = 6, 10
#: A cause is worth a sentence if it is this part of all that moved.
_WORTH_A_SENTENCE = Fraction(1, 20)
#: What charts of days show, and how far back releases are listed.
FOUR_WEEKS = timedelta(weeks=4)
#: Sorting millions of rows in memory rather than on disk takes half the time. And the rows of a
#: week lie together, which the planner does not take into account for a BRIN index.
_SETTINGS = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "SET LOCAL work_mem = '64MB'",
    "SET LOCAL random_page_cost = 1.1",
)


def collect(connection: Connection, period: Period) -> WeeklyReview:
    """Read a review; `connection` is in a transaction that has done nothing yet."""
    for setting in _SETTINGS:
        connection.execute(text(setting))
    before = period.before
    rows = read_rows(connection, period.history[0].start, period.end)
    rows_now = within(rows, period)
    now, then = (total(row.figures for row in part) for part in (rows_now, within(rows, before)))
    unit = unit_for(now.cost_usd, then.cost_usd)
    releases = _releases(connection, period)
    compared = then != Figures()
    causes = _causes(rows, period) if compared else []
    shown = rounded(now.cost_usd, unit) - rounded(then.cost_usd, unit)
    kinds = change.by_kind(causes)
    explanations, rest = _explain(connection, causes, shown, unit, period, releases)
    return WeeklyReview(
        period=period,
        made_at=datetime.now(UTC),
        unit=unit,
        compared=compared,
        now=now,
        before=then,
        weeks=[total(row.figures for row in within(rows, week)) for week in period.history],
        days=_days(rows, period),
        lines=read_lines(connection, rows, period, unit),
        explanations=explanations,
        unexplained=rest,
        kinds=list(zip(kinds, apportion([*kinds.values()], shown, unit), strict=True)),
        lengths=read_lengths(
            ledger.profile(connection, period.since, period.until),
            ledger.profile(connection, before.since, before.until),
            reporting.limits(connection),
        ),
        day_lengths=[
            DayLength(f"{r.prompt}/{r.prompt_version}", r.day, r.replies, r.output_tokens_p50)
            for r in reporting.lengths(connection, period.end - FOUR_WEEKS, period.end)
        ],
        releases=releases,
        tasks=total_by(rows_now, lambda row: row.task),
        ends={
            r.task: Ends(r.succeeded, r.failed, r.cancelled)
            for r in reporting.ends(connection, period.since, period.until)
        },
        jobs=reporting.dearest_jobs(connection, period.start, period.end, most=MOST_JOBS),
        alerts=reporting.alerts(connection, period.since, period.until),
        notes=notes(period, rows, reporting.first_day(connection)),
    )


def _causes(rows: Sequence[Row], period: Period) -> list[change.Cause]:
    before, now = (grouped(within(rows, part)) for part in (period.before, period))
    return change.explain(before, now, _unit_prices)


@lru_cache(maxsize=1000)
def _unit_prices(model: str) -> tuple[Fraction, Fraction] | None:
    thousand = (Tokens(input=1000), Tokens(output=1000))
    reading, writing = (full_cost_usd(model, tokens) for tokens in thousand)
    if reading is None or writing is None:
        return None
    return Fraction(reading) / 1000, Fraction(writing) / 1000


def _explain(
    connection: Connection,
    causes: Sequence[change.Cause],
    shown: Decimal,
    unit: Decimal,
    period: Period,
    releases: Sequence[Release],
) -> tuple[list[Explanation], Decimal]:
    """Sentences for the causes that matter, and what all the others add up to."""
    moved = sum((abs(each.usd) for each in causes), Fraction(0))
    told = [each for each in causes[:MOST_SENTENCES] if abs(each.usd) >= moved * _WORTH_A_SENTENCE]
    rest = sum((each.usd for each in causes[len(told) :]), Fraction(0))
    *amounts, other = apportion([*(each.usd for each in told), rest], shown, unit)
    busiest = _busiest(connection, period) if told else {}
    recent = [each for each in releases if each.created_at >= period.before.since]
    sentences = [
        explain_cause(cause, usd, period, recent, busiest)
        for cause, usd in zip(told, amounts, strict=True)
    ]
    return sentences, other


def _busiest(connection: Connection, period: Period) -> dict[str, Busiest]:
    before = period.before
    found = reporting.busiest(connection, period.start, period.end, before.start, before.end)
    return {row.task: Busiest(row.user_id, row.more) for row in found}


def _releases(connection: Connection, period: Period) -> list[Release]:
    return [
        Release(
            row.prompt,
            row.kind,
            row.weights,
            row.weights_before,
            row.released_by,
            row.reason,
            row.created_at,
        )
        for row in reporting.releases(connection, period.until - FOUR_WEEKS, period.until)
    ]


def _days(rows: Sequence[Row], period: Period) -> list[Day]:
    by_day = total_by(rows, lambda row: row.day)
    days = [period.start + timedelta(days=n) for n in range(period.days)]
    cost = {day: figures.cost_usd for day, figures in by_day.items()}
    week = timedelta(days=7)
    return [Day(day, cost.get(day, Decimal(0)), cost.get(day - week, Decimal(0))) for day in days]
