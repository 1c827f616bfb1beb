"""Which charts the page has, with their legends and the numbers behind them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from markupsafe import Markup

from worker.report import amounts, charts
from worker.report.charts import LETTERS, MOST_SERIES, Series
from worker.report.svg import draw
from worker.report.weekly import SAVINGS, DayLength, Line, WeeklyReview
from worker.report.wording import RATES
from worker.storage.figures import Figures

#: Prompts whose lengths have a chart.
_MOST_PROMPTS = 6
_LENGTH_DAYS = 28

_TOKENS = (
    ("Input", "input_tokens"),
    ("Read from the prompt cache", "cache_read_tokens"),
    ("Written to the prompt cache", "cache_write_tokens"),
    ("Output", "output_tokens"),
)


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its legend: a letter and a name for each series.

    `columns` and `rows` are the numbers in it, for those who would rather read them.
    """

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[tuple[str, Sequence[str]]] = ()


def spend_by_day(review: WeeklyReview) -> Chart:
    """The days of the week beside those of the week before."""
    title = "Dollars by day"
    description = f"A bar for each day of {review.period.dates}, a mark for the same day before."
    return Chart(title, draw(charts.by_day(review.days), title, description))


def effects(review: WeeklyReview) -> Chart | None:
    """What the change is made of."""
    rows = sum(1 for _, usd in review.kinds if usd)
    if not rows:
        return None
    title = "What the change is made of"
    description = "A bar for each kind of effect, in dollars; the table says the same."
    height = 40 + 26 * rows
    svg = draw(charts.effects(review), title, description, height=height, left=16)
    return Chart(title, svg)


def spend_by_week(review: WeeklyReview, dimension: str, lines: Sequence[Line]) -> Chart:
    """A dimension's dollars by week. What cost least, or only in earlier weeks, is one series."""
    unused = _unused(review)
    series = [
        Series(line.name, [float(usd) for usd in line.weeks[unused:]])
        for line in lines[:MOST_SERIES]
    ]
    rest = [
        week.cost_usd - sum(line.weeks[n] for line in lines[:MOST_SERIES])
        for n, week in enumerate(review.weeks)
    ]
    series.append(Series("others", [float(usd) for usd in rest[unused:]]))
    return _stacked(review, f"Dollars by week and {dimension}", series, dollars=True)


def tokens_by_week(review: WeeklyReview) -> Chart:
    """Tokens of every kind by week."""
    series = [
        Series(name, [float(getattr(week, column)) for week in review.weeks[_unused(review) :]])
        for name, column in _TOKENS
    ]
    return _stacked(review, "Tokens by week", series, dollars=False)


def savings_by_week(review: WeeklyReview) -> Chart:
    """What was saved by week; the prompt cache may have cost more than it saved."""
    series = [
        Series(name, [float(getattr(week, column)) for week in review.weeks[_unused(review) :]])
        for name, column in SAVINGS
    ]
    return _stacked(review, "Dollars saved by week", series, dollars=True)


def rates_by_week(review: WeeklyReview) -> Chart:
    """What went wrong, as shares, by week."""
    chosen = [each for each in RATES if each[0] in ("Truncated", "Asked again", "Failed calls")]
    series = [
        Series(f"{name}, {of}", [rate(week) for week in review.weeks[_unused(review) :]])
        for name, of, rate in chosen
    ]
    title = "What went wrong, by week"
    weeks = _weeks(review)
    svg = draw(charts.lines(weeks, series, form=".1~%"), title, "A line for each rate, by week.")
    rows = [(each.name, [amounts.percent(value, 1) for value in each.values]) for each in series]
    return Chart(title, svg, _legend(series), weeks, rows)


def lengths_by_day(review: WeeklyReview) -> list[Chart]:
    """The median length of a prompt's replies, day by day, its versions side by side.

    The prompts whose replies drifted most come first.
    """
    by_prompt: dict[str, list[DayLength]] = defaultdict(list)
    for each in review.day_lengths:
        by_prompt[each.name.rpartition("/")[0]].append(each)
    ordered = sorted(by_prompt, key=lambda prompt: (-_span(by_prompt[prompt]), prompt))
    return [_lengths(review, prompt, by_prompt[prompt]) for prompt in ordered[:_MOST_PROMPTS]]


def _span(days: Sequence[DayLength]) -> float:
    """How far the days of a prompt are apart, whichever version: of those with some replies."""
    usual = max(each.replies for each in days)
    medians = [each.median for each in days if each.replies * 5 >= usual and each.median]
    return max(medians, default=1) / min(medians, default=1)


def _lengths(review: WeeklyReview, prompt: str, days: Sequence[DayLength]) -> Chart:
    end = review.period.end
    dates = [end - timedelta(days=n) for n in range(_LENGTH_DAYS, 0, -1)]
    replies: dict[str, int] = defaultdict(int)
    by_version: dict[str, dict[date, int]] = defaultdict(dict)
    for each in days:
        replies[each.name] += each.replies
        by_version[each.name][each.day] = each.median
    names = sorted(sorted(replies, key=lambda name: -replies[name])[: len(LETTERS)])
    series = [Series(name, [by_version[name].get(day) for day in dates]) for name in names]
    marks = {
        _day(release.created_at.date()): "release" if release.kind == "release" else "rollback"
        for release in review.releases
        if release.prompt == prompt and release.created_at.date() in dates
    }
    title = "Median output tokens of a reply, by day"
    spec = charts.lines([_day(each) for each in dates], series, form=",.0f", marks=marks, every=7)
    svg = draw(spec, title, "A line for each version, by day.", height=170)
    rows = [(each.name, _first_and_last(each)) for each in series]
    return Chart(prompt, svg, _legend(series), ("first day", "last day"), rows)


def _first_and_last(series: Series) -> list[str]:
    known = [value for value in series.values if value is not None]
    return [f"{known[0]:,.0f}", f"{known[-1]:,.0f}"]


def _stacked(review: WeeklyReview, title: str, series: Sequence[Series], *, dollars: bool) -> Chart:
    weeks = _weeks(review)
    kept = [each for each in series if any(each.values)]
    svg = draw(
        charts.stacked(weeks, kept, dollars=dollars),
        title,
        "A bar for each week, from the bottom in the order of the legend.",
    )
    rows = [
        (each.name, [_number(value, review.unit, dollars=dollars) for value in each.values])
        for each in kept
    ]
    return Chart(title, svg, _legend(kept), weeks, rows)


def _number(value: float | None, unit: Decimal, *, dollars: bool) -> str:
    if dollars:
        return amounts.dollars(amounts.rounded(Decimal(value or 0), unit))
    return f"{value or 0:,.0f}"


def _weeks(review: WeeklyReview) -> list[str]:
    """The names of the weeks that are drawn."""
    return [week.short for week in review.period.history[_unused(review) :]]


def _unused(review: WeeklyReview) -> int:
    """Weeks before there was anything; two weeks are drawn in any case."""
    used = (n for n, week in enumerate(review.weeks) if week != Figures())
    return min(next(used, len(review.weeks)), len(review.weeks) - 2)


def _day(day: date) -> str:
    return f"{day.day} {day:%b}"


def _legend(series: Sequence[Series]) -> list[tuple[str, str]]:
    return [(letter, each.name) for letter, each in zip(LETTERS, series, strict=False)]
