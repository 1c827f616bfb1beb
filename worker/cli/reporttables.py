"""The weekly review in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from rich.markup import escape
from rich.table import Table

from worker.cli.output import out, table, when
from worker.html import plain, shorten
from worker.report.amounts import dollars, percent, relative, signed
from worker.report.replies import Lengths
from worker.report.sentences import KIND_NAMES
from worker.report.weekly import Line, WeeklyReview
from worker.report.wording import MOST_TASKS, RATES, headline, rates, savings
from worker.storage.figures import ratio

_BLOCKS = "▁▂▃▄▅▆▇█"
#: Columns of a terminal from which on there is room for the course of the weeks.
_ROOMY = 80
_BAR = 24


def print_review(review: WeeklyReview) -> None:
    """Print everything that the page shows."""
    period = review.period
    out.print(f"[bold]Weekly review {period.name}[/]: {period.dates}, days in UTC")
    out.print(f"[bold]{escape(headline(review))}[/]")
    for note in review.notes:
        out.print(f"[yellow]![/] {_safe(note)}")
    if review.empty and not review.compared:
        return
    _print_change(review)
    for dimension, lines in review.lines.items():
        _section(f"Dollars by {dimension}", _breakdown(dimension, lines, review))
    _section("Tokens", _tokens(review))
    _section("Saved", _savings(review))
    _section("Length of replies, in output tokens", _lengths(review))
    for each in review.lengths:
        if each.advice:
            limits = f"from {each.limit:,} to {each.suggested:,}"
            out.print(f"- {each.advice} max_tokens of {_name(each.name)} {limits}")
    _section("What went wrong", _rates(review))
    _section("Dearest jobs", _jobs(review))
    _section("Alerts", _alerts(review))


def spark(values: Sequence[Decimal]) -> str:
    """The course of some amounts as blocks; the highest is the full one, nothing is a space."""
    top = max(values, default=Decimal(0))
    if top <= 0:
        return " " * len(values)
    return "".join(_BLOCKS[min(7, int(8 * value / top))] if value > 0 else " " for value in values)


def _safe(text: str) -> str:
    return escape(plain(text))


def _name(text: str) -> str:
    return _safe(shorten(text))


def _section(title: str, content: Table) -> None:
    if content.row_count:
        out.print()
        out.print(f"[bold]{title}[/]")
        out.print(content)


def _print_change(review: WeeklyReview) -> None:
    if not (review.explanations or (review.compared and review.change)):
        return
    out.print()
    out.print("[bold]What changed[/]")
    told = [(each.usd, each.sentence) for each in review.explanations]
    if review.unexplained:
        told.append((review.unexplained, "everything else"))
    width = max(len(signed(usd)) for usd, _ in told) if told else 0
    for usd, sentence in told:
        out.print(f"{signed(usd):>{width}}  {_safe(sentence)}")
    effects = table("effect~", "dollars>", "")
    top = max((abs(usd) for _, usd in review.kinds), default=Decimal(0))
    for kind, usd in review.kinds:
        if usd:
            bar = "█" * max(1, round(_BAR * abs(usd) / top))
            colour = "red" if usd > 0 else "green"
            effects.add_row(KIND_NAMES[kind], signed(usd), f"[{colour}]{bar}[/]")
    _section("By effect", effects)


def _breakdown(dimension: str, lines: Sequence[Line], review: WeeklyReview) -> Table:
    roomy = out.width >= _ROOMY
    course = roomy and dimension != "user"
    listed = table(
        f"{dimension}~",
        "this week>",
        "before>",
        "change>",
        *(("jobs>",) if roomy else ()),
        *(("$/job>", "weeks") if course else ()),
    )
    for line in lines:
        each = ratio(line.now.cost_usd, line.now.jobs)
        listed.add_row(
            _name(line.name) + (f" ({line.now.unpriced:,} unpriced)" if line.now.unpriced else ""),
            dollars(line.shown),
            dollars(line.shown_before),
            relative(line.now.cost_usd, line.before.cost_usd),
            *((f"{line.now.jobs:,}",) if roomy else ()),
            *(("-" if each is None else f"{each:,.4f}", spark(line.weeks)) if course else ()),
        )
    if lines:
        now, before = review.now, review.before
        listed.add_row(
            "total",
            dollars(review.cost),
            dollars(review.cost_before),
            relative(now.cost_usd, before.cost_usd),
            *((f"{now.jobs:,}",) if roomy else ()),
            style="bold",
        )
    return listed


def _tokens(review: WeeklyReview) -> Table:
    listed = table("tokens~", "this week>", "before>", "change>")
    for name, now, before in (
        ("input", review.now.input_tokens, review.before.input_tokens),
        (
            "read from the prompt cache",
            review.now.cache_read_tokens,
            review.before.cache_read_tokens,
        ),
        ("written to it", review.now.cache_write_tokens, review.before.cache_write_tokens),
        ("output", review.now.output_tokens, review.before.output_tokens),
        ("of that, thinking", review.now.thinking_tokens, review.before.thinking_tokens),
    ):
        if now or before:
            listed.add_row(name, f"{now:,}", f"{before:,}", relative(now, before))
    return listed


def _savings(review: WeeklyReview) -> Table:
    listed = table("by~", "this week>", "before>", "of the full price>")
    found = savings(review)
    for name, now, before in (*found.lines, ("All", found.now, found.before)):
        share = percent(ratio(now, review.now.full_cost_usd), 1)
        style = "bold" if name == "All" else None
        listed.add_row(name.lower(), dollars(now), dollars(before), share, style=style)
    return listed


def _lengths(review: WeeklyReview) -> Table:
    listed = table(
        "prompt~", "replies>", "median>", "before>", "drift>", "p99>", "max_tokens>", "truncated>"
    )
    for each in review.lengths[:MOST_TASKS]:
        listed.add_row(
            _name(each.name),
            f"{each.replies:,}",
            f"{each.p50:,}",
            _before(each),
            "-" if each.drift is None else f"×{each.drift:.2f}",
            f"{each.p99:,}",
            "-" if each.limit is None else f"{each.limit:,}",
            percent(each.truncated, 1),
            style="bold" if each.drift is not None and not 2 / 3 < each.drift < 1.5 else None,
        )
    return listed


def _before(each: Lengths) -> str:
    if each.before is None:
        return "-"
    other = "" if each.before.version == each.version else f" in {_name(each.before.version)}"
    return f"{each.before.p50:,}{other}"


def _rates(review: WeeklyReview) -> Table:
    listed = table("task~", "jobs>", "failed>", *(f"{name.lower()}>" for name, _, _ in RATES))
    rows = rates(review)
    for row, (name, figures, failed) in enumerate(rows, start=1):
        shares = (percent(rate(figures), 1) for _, _, rate in RATES)
        style = "bold" if row == len(rows) else None
        listed.add_row(_name(name), f"{figures.jobs:,}", percent(failed, 1), *shares, style=style)
    return listed


def _jobs(review: WeeklyReview) -> Table:
    listed = table("job", "task~", "prompt~", "user~", "calls>", "output>", "dollars>")
    for row in review.jobs:
        listed.add_row(
            str(row.job_id),
            _name(row.task),
            _name(", ".join(row.versions)),
            _name(row.user_id or "-"),
            f"{row.calls:,}",
            f"{row.output_tokens:,}",
            f"${row.cost_usd:,.4f}",
        )
    return listed


def _alerts(review: WeeklyReview) -> Table:
    listed = table("last", "kind", "subject~", "times>", "seen", "message~")
    for row in review.alerts:
        listed.add_row(
            when(row.last_at),
            _safe(row.kind),
            _name(row.subject),
            f"{row.count:,}",
            "yes" if row.acknowledged else "no",
            _safe(row.message),
        )
    return listed
