"""The results as tables: rows of plain text, which the terminal and the document both show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks.bars import Verdict
from benchmarks.measure import median
from worker.cli.output import table


@dataclass(frozen=True)
class Shown:
    """A table; all columns but the first are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(results: dict[str, Any]) -> Iterator[Shown]:
    """One for each thing that was measured."""
    shown = {
        "overhead": _overhead,
        "call": _call,
        "inflight": _in_flight,
        "latency": _latency,
        "enqueue": _enqueue,
    }
    for name, show in shown.items():
        if name in results:
            yield show(results[name])


def print_report(console: Console, results: dict[str, Any], verdicts: list[Verdict]) -> None:
    """Everything, for people."""
    for shown in tables(results):
        made = table(shown.columns[0], *(f"{c}>" for c in shown.columns[1:]), title=shown.title)
        for row in shown.rows:
            made.add_row(*map(escape, row))
        console.print()
        console.print(made)
    if not verdicts:
        return
    judged = table("", "bar", "asked>", "measured>", title="Bars")
    for verdict in verdicts:
        met = "[green]met[/]" if verdict.met else "[red]MISSED[/]"
        judged.add_row(met, verdict.what, verdict.bar, verdict.measured)
    console.print()
    console.print(judged)


def _overhead(result: dict[str, Any]) -> Shown:
    title = (
        f"Overhead: {result['rounds']} rounds of {result['jobs_per_round']:,} jobs each, in turn; "
        f"Claude answers at once; {result['concurrency']} threads (medians)"
    )
    columns = ("", "jobs/s", "worker CPU ms/job", "Postgres", "Valkey", "calls/job")
    rows = [
        (
            name,
            f"{row['jobs_per_second']:.0f}",
            f"{row['worker_ms']:.2f}",
            f"{row['postgres_ms']:.2f}",
            f"{row['valkey_ms']:.2f}",
            f"{row['calls'] / result['jobs_per_round']:.2f}",
        )
        for name, row in result["contenders"].items()
    ]
    return Shown(title, columns, rows)


def _call(result: dict[str, Any]) -> Shown:
    title = (
        f"A call: {result['rounds']} rounds of {result['calls_per_round']:,} each, in turn; "
        "one thread, no database"
    )
    rows = [
        (name, *(f"{choose(result['raw_ms'][name]):.2f}" for choose in (median, min, max)))
        for name in result["contenders"]
    ]
    for name, column, unit in (("difference", "differences_ms", ""), ("ratio", "ratios", " ×")):
        values = result[column]
        rows.append((name, *(f"{choose(values):.2f}{unit}" for choose in (median, min, max))))
    return Shown(title, ("CPU ms a call", "median", "least", "most"), rows)


def _in_flight(result: dict[str, Any]) -> Shown:
    title = f"In flight: one process with {result['slots']} threads, slow calls"
    columns = (
        "call takes, by", "jobs", "most in flight", "jobs/s", "RSS MB", "PSS MB", "idle RSS MB",
        "kB/call", "CPU ms/job",
    )  # fmt: skip
    rows = [
        (
            f"{case['latency']:g} s, {name}",
            f"{case['jobs']:,}",
            f"{row['max_in_flight']:.0f}",
            f"{row['jobs_per_second']:.0f}",
            f"{row['peak_rss_mb']:.0f}",
            f"{row['peak_pss_mb']:.0f}",
            f"{row['idle_rss_mb']:.0f}",
            f"{row['kb_per_in_flight']:.0f}",
            f"{row['worker_ms']:.2f}",
        )
        for case in result["cases"]
        for name, row in case["contenders"].items()
    ]
    return Shown(title, columns, rows)


def _latency(result: dict[str, Any]) -> Shown:
    title = f"Enqueue to call start: {result['jobs']} jobs, one at a time, on idle workers"
    rows = [
        (name, *(f"{row[column]:.1f}" for column in ("p50_ms", "p99_ms", "max_ms")))
        for name, row in result["contenders"].items()
    ]
    return Shown(title, ("", "p50 ms", "p99 ms", "max ms"), rows)


def _enqueue(result: dict[str, Any]) -> Shown:
    title = (
        f"Enqueueing {result['jobs']:,} jobs from a file, no worker running "
        f"(medians of {result['rounds']})"
    )
    named = {
        "claude-jobs": "claude-jobs enqueue-file: validated, committed",
        "plain Celery": "plain Celery: send_task a line, unchecked",
    }
    columns = ("whole_command_per_second", "enqueueing_per_second")
    rows = [
        (named[name], *(f"{row[column]:,.0f}" for column in columns))
        for name, row in result["contenders"].items()
    ]
    return Shown(title, ("", "jobs/s, whole command", "jobs/s, without start-up"), rows)
