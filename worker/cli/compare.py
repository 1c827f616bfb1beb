"""Comparing two versions of a prompt by the jobs that they served."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite, isinf
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from sqlalchemy import RowMapping

from worker.cli.operate import parse_age
from worker.cli.output import as_json, check_database, err, out, table
from worker.engine.pins import parse_pin
from worker.engine.prompts import get_prompts
from worker.errors import InvalidInput
from worker.storage import performance
from worker.storage.engine import transaction

if TYPE_CHECKING:
    from worker.engine.comparison import ComparedJob, Comparison, Line
    from worker.engine.intervals import Estimate

#: The newest ones, beyond which nothing becomes more certain; a minute's work for a laptop.
_MOST_JOBS = 200_000


def compare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The prompt.")],
    a: Annotated[
        str, typer.Argument(metavar="A", help="A version, as in 1.0 or 1.0@5f0a2c9d1b7e.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The version to hold against it.")],
    since: Annotated[str, typer.Option(help="Jobs of the last 24h, 7d, 4w …")] = "7d",
    include_pinned: Annotated[
        bool, typer.Option("--include-pinned", help="Also jobs that chose their version.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compare two versions by the jobs that they served, and say what the difference means.

    Only jobs that have ended count. Where a release served both versions, only its jobs are
    compared, as who got which was left to chance. Jobs that were pinned to a version – tests,
    reviews – are left out.
    """
    from worker.engine import comparison  # statistics: 30 ms for the one that needs it

    if a == b:
        raise InvalidInput(f"{a} is the same version twice: name two")
    get_prompts().versions(name)
    pins = {label: parse_pin(label) for label in (a, b)}
    after = datetime.now(UTC) - parse_age(since)
    check_database()
    versions = sorted({version for version, _ in pins.values()})
    with transaction() as connection:
        rows = performance.ended_jobs(
            connection, name, versions, after, pinned=include_pinned, limit=_MOST_JOBS
        )
        seen = performance.versions_seen(connection, name, after, pinned=include_pinned)
    jobs, mixed = _jobs(rows, pins)
    for label in (a, b):
        if not any(job.version == label for job in jobs):
            raise InvalidInput(_nothing_of(name, label, since, seen, include_pinned))
    found = comparison.compare(a, b, jobs)
    if mixed:
        found.notes.append(
            f"{mixed:,} jobs ran on more than one version, e.g. as they were tried again after a "
            "release; they are left out"
        )
    if len(rows) == _MOST_JOBS:
        found.notes.append(f"only the newest {_MOST_JOBS:,} jobs were looked at")
    if json:
        typer.echo(as_json({"prompt": name, "since": after, **_finite(asdict(found))}))
        return
    _print(name, since, found)
    err.print("\n" + escape(comparison.caution(len(found.lines))))


def _finite(value: Any) -> Any:
    """The value with null for what is not bounded: JSON has no infinity."""
    match value:
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list():
            return [_finite(each) for each in value]
        case float() if not isfinite(value):
            return None
    return value


def _jobs(
    rows: Iterable[RowMapping], pins: dict[str, tuple[str, str]]
) -> tuple[list[ComparedJob], int]:
    """The jobs that ran on one content of one of the versions; and how many ran on several."""
    from worker.engine.comparison import ComparedJob

    jobs, mixed = [], 0
    for row in rows:
        if len(row["contents"]) > 1 or len(row["variants"]) > 1:
            mixed += 1
            continue
        (content,), (variant,) = row["contents"], row["variants"]
        for label, (version, sha256) in pins.items():
            if content.startswith(f"{version}@{sha256}"):
                jobs.append(
                    ComparedJob(
                        version=label,
                        variant=variant,
                        # A job of nobody is a user of its own.
                        user=row["user_id"] or row["job_id"],
                        outcome=row["outcome"],
                        repaired=row["outcome"] == "invalid_output" and row["asked_again"],
                        tokens=row["output_tokens"],
                        latency_ms=row["latency_ms"],
                        failed_checks=frozenset(row["failed_checks"] or ()),
                        cost=None if row["cost_usd"] is None else float(row["cost_usd"]),
                    )
                )
                break
    return jobs, mixed


def _nothing_of(name: str, label: str, since: str, seen: set[str], pinned: bool) -> str:
    there_are = f"there are calls of {', '.join(sorted(seen))}" if seen else "there are no calls"
    hint = "" if pinned else "; --include-pinned adds jobs that chose their version"
    return f"no job of {name}/{label} has ended in the last {since} ({there_are}){hint}"


def _print(name: str, since: str, found: Comparison) -> None:
    out.print(
        f"[bold]{escape(name)}[/]: A is {escape(found.a)}, B is {escape(found.b)}, "
        f"jobs of the last {since}"
    )
    for note in found.notes:
        out.print(f"- {escape(note)}")
    out.print()
    listed = table("", "A>", "B>", "B against A>", "so far~")
    listed.add_row("jobs", f"{found.jobs[found.a]:,}", f"{found.jobs[found.b]:,}", "", "")
    listed.add_row("users", f"{found.users[found.a]:,}", f"{found.users[found.b]:,}", "", "")
    for line in found.lines:
        listed.add_row(
            escape(line.name),
            _estimate(line, line.a),
            _estimate(line, line.b),
            _difference(line),
            line.verdict,
            style=None if line.verdict.startswith("B ") else "dim",
        )
    out.print(listed)


def _estimate(line: Line, found: Estimate | None) -> str:
    if found is None:
        return "-"
    before, number, after = _UNITS[line.unit]
    value, low, high = (
        "∞" if isinf(each) else number(each) for each in (found.value, found.low, found.high)
    )
    return f"{before}{value}{after} ({low} – {high})"


#: What stands before a number, how it is written, and what stands after it.
_UNITS: dict[str, tuple[str, Callable[[float], str], str]] = {
    "share": ("", lambda value: f"{100 * value:.1f}", " %"),
    "tokens": ("", lambda value: f"{value:,.0f}", ""),
    "ms": ("", lambda value: f"{value / 1000:,.2f}", " s"),
    "dollars": ("$", lambda value: f"{value:.4f}", ""),
}


def _difference(line: Line) -> str:
    found = line.difference
    if found is None:
        return "-"
    if line.unit == "share":
        low, high = f"{100 * found.low:+.1f}", f"{100 * found.high:+.1f}"
        return f"{100 * found.value:+.1f} points ({low} to {high})"
    high = "∞" if isinf(found.high) else f"{found.high:.2f}"
    return f"×{found.value:.2f} ({found.low:.2f} – {high})"
