"""The results as tables: rows of plain text, which the terminal and the document both show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks import saving_report
from benchmarks.bars import Verdict
from benchmarks.measure import median
from benchmarks.shown import Shown
from worker.cli.output import table


def tables(results: dict[str, Any]) -> Iterator[Shown]:
    """One or more for each thing that was measured."""
    shown: dict[str, Callable[[dict[str, Any]], Iterator[Shown]]] = {
        "overhead": _overhead,
        "call": _call,
        "inflight": _in_flight,
        "streams": _streams,
        "latency": _latency,
        "scale": _scale,
        "enqueue": _enqueue,
        "goodput": _goodput,
        "saving": saving_report.tables,
    }
    for name, show in shown.items():
        if name in results:
            yield from show(results[name])


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


def _overhead(result: dict[str, Any]) -> Iterator[Shown]:
    title = (
        f"Overhead: {result['rounds']} rounds of {result['jobs_per_round']:,} jobs each, in turn; "
        f"Claude answers at once; {result['concurrency']} at a time (medians)"
    )
    columns = (
        "", "jobs/s", "worker CPU ms/job", "Postgres", "Valkey", "calls/job",
        "our CPU over theirs", "our jobs/s over theirs",
    )  # fmt: skip
    rows = [
        (
            name,
            f"{row['jobs_per_second']:.0f}",
            f"{row['worker_ms']:.2f}",
            f"{row['postgres_ms']:.2f}",
            f"{row['valkey_ms']:.2f}",
            f"{row['calls'] / result['jobs_per_round']:.2f}",
            _ratio(result["cpu_ratios"].get(name)),
            _ratio(result["speed_ratios"].get(name)),
        )
        for name, row in result["contenders"].items()
    ]
    yield Shown(title, columns, rows + _failed(result["failed"], len(columns)))


def _ratio(values: list[float] | None) -> str:
    if not values:
        return "–"
    return f"{median(values):.2f} × ({min(values):.2f}–{max(values):.2f})"


def _failed(failed: dict[str, str], columns: int) -> list[tuple[str, ...]]:
    """A row for each that could not be measured: nobody is left out in silence."""
    return [
        (f"{name}: {why.splitlines()[0][:100]}", *(["–"] * (columns - 1)))
        for name, why in failed.items()
    ]


def _call(result: dict[str, Any]) -> Iterator[Shown]:
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
    yield Shown(title, ("CPU ms a call", "median", "least", "most"), rows)


def _in_flight(result: dict[str, Any]) -> Iterator[Shown]:
    columns = (
        "", "slots", "jobs", "most in flight", "in flight per GiB RSS", "per GiB PSS", "RSS MB",
        "idle RSS MB", "jobs/s", "CPU ms/job",
    )  # fmt: skip
    for case in result["cases"]:
        rows = [
            (
                name,
                f"{row['slots']:,}",
                f"{row['jobs']:,}",
                f"{row['max_in_flight']:,.0f}",
                f"{row['per_gib']:,.0f}",
                f"{row['per_gib_pss']:,.0f}",
                f"{row['peak_rss_mb']:,.0f}",
                f"{row['idle_rss_mb']:,.0f}",
                f"{row['jobs_per_second']:.0f}",
                f"{row['worker_ms']:.2f}",
            )
            for name, row in case["contenders"].items()
        ]
        title = f"In flight: calls of {case['latency']:g} s, one worker, all jobs released at once"
        yield Shown(title, columns, rows + _failed(case["failed"], len(columns)))
    if flat := result["flat"]:
        title = (
            f"In flight, at a steady pace: {flat['jobs']:,} jobs, {flat['rate']:.0f} a second, "
            "by one worker; only the length of a call differs"
        )
        rows = [
            (
                f"{run['latency']:.2f} s",
                f"{run['max_in_flight']:,.0f}",
                f"{run['worker_ms']:.2f}",
            )
            for runs in flat["runs"].values()
            for run in runs
        ]
        rows.append(("1,000 over 50", "", f"{flat['ratio']:.2f} ×"))
        yield Shown(title, ("call takes", "most in flight", "worker CPU ms/job"), rows)


def _streams(result: dict[str, Any]) -> Iterator[Shown]:
    title = (
        f"Streams: {result['streams']} jobs with `stream=True` at once, "
        f"{result['chunks_per_second']} chunks/s each, the worker on one core"
    )
    rows = [
        ("most at once, after their first chunk", f"{result['max_streaming']}"),
        ("chunks in all", f"{result['chunks']:,}"),
        ("chunks/s a stream, median", f"{result['rate_p50']:.1f}"),
        ("chunks/s a stream, slowest 5 %", f"{result['rate_p05']:.1f}"),
        ("worker CPU, cores", f"{result['worker_core']:.2f}"),
        ("worker CPU, µs a chunk", f"{result['worker_us_per_chunk']:.0f}"),
        ("worker CPU, ms a job", f"{result['worker_ms']:.1f}"),
        ("simulated Claude's CPU, cores", f"{result['claude_core']:.2f}"),
    ]
    if "first_delta_p50_ms" in result:  # not in a run from before streams were published
        rows += [
            ("worker CPU, ms a job, with nothing published", f"{result['unpublished_ms']:.1f}"),
            ("all readers' CPU, cores", f"{result['reader_core']:.2f}"),
            (
                "first token to a reader's first text, ms: p50",
                f"{result['first_delta_p50_ms']:.0f}",
            ),
            ("p95", f"{result['first_delta_p95_ms']:.0f}"),
            ("p99", f"{result['first_delta_p99_ms']:.0f}"),
            (
                "the same of threads that read the SDK's bytes: p50",
                f"{result['floor_first_delta_p50_ms']:.0f}",
            ),
            ("p95", f"{result['floor_first_delta_p95_ms']:.0f}"),
            ("p99", f"{result['floor_first_delta_p99_ms']:.0f}"),
            ("first tokens came within, s", f"{result['began_within']:.1f}"),
            ("one stream at a time, p50", f"{result['alone_first_delta_ms']:.0f}"),
        ]
    yield Shown(title, ("", "claude-jobs"), rows)


def _latency(result: dict[str, Any]) -> Iterator[Shown]:
    title = "Enqueueing to the start of the call; round trips of the worker to Postgres and Valkey"
    rows = [
        (
            f"{name}, {case['load']}, + {case['injected_ms']:g} ms a round trip",
            f"{case['measured_ms']:.2f}",
            f"{case['jobs']:,}",
            *(f"{row[column]:.1f}" for column in ("p50_ms", "p99_ms", "max_ms")),
        )
        for case in result["cases"]
        for name, row in case["contenders"].items()
    ]
    yield Shown(title, ("", "PING ms", "jobs", "p50 ms", "p99 ms", "max ms"), rows)
    rows = [
        (f"{name}, + {case['injected_ms']:g} ms a round trip", f"{speed:.0f}")
        for case in result["cases"]
        for name, speed in case.get("full_load", {}).items()
    ]
    yield Shown("Full load, of which half is taken above", ("", "jobs/s"), rows)


def _scale(result: dict[str, Any]) -> Iterator[Shown]:
    steps = ("dispatch", "claim", "enqueue")
    sizes = [str(size) for size in result["sizes"]]
    for prefix, what in (("", "CPU time of relay and Postgres"), ("clock_", "by the clock")):
        title = (
            f"Scale, {what}: {result['rounds']} rounds, the sizes in turn (medians); "
            "dispatch is a look of the relay that sends 100"
        )
        rows = [
            (
                f"{int(size):,}",
                *(f"{result[prefix + 'median_ms'][step][size]:.2f}" for step in steps),
                *(f"{result[prefix + 'ratios'][step][size]:.2f} ×" for step in steps),
            )
            for size in sizes
        ]
        yield Shown(title, ("jobs queued", *(f"{s} ms" for s in steps), *steps), rows)
    rows = [
        (f"{int(size):,}", f"{row['jobs_per_second']:.0f}", f"{row['worker_ms']:.2f}")
        for size, row in result["drained"].items()
    ]
    yield Shown(
        "Scale: a worker that begins with such a backlog, over its first 1,000 jobs",
        ("jobs queued", "jobs/s", "worker CPU ms/job"),
        rows,
    )


def _enqueue(result: dict[str, Any]) -> Iterator[Shown]:
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
    yield Shown(title, ("", "jobs/s, whole command", "jobs/s, without start-up"), rows)


def _goodput(result: dict[str, Any]) -> Iterator[Shown]:
    title = (
        f"Under limits: {result['processes']} processes, each bucket binding in a class of its own "
        f"at {result['rate']:g} jobs/s; {result['seconds']:g} s, after {result['settle']:g} s to "
        "settle"
    )
    rows = [
        _under_limit(name, row["steady"], f"{row['lost'][0] / max(1, row['lost'][1]):.1%}")
        for name, row in result["contenders"].items()
    ]
    rows[1:1] = [
        _under_limit(f"… limits {change}", phase["steady"], "")
        for change, phase in result["changes"].items()
    ]
    columns = ("", "requests used", "input used", "output used", "429s of requests", "jobs failed")
    yield Shown(title, columns, rows)


def _under_limit(name: str, buckets: dict[str, Any], failed: str) -> tuple[str, ...]:
    rows = list(buckets.values())
    refused = sum(row["rejected"] for row in rows) / max(1, sum(row["requests"] for row in rows))
    return (name, *(f"{row['used']:.1%}" for row in rows), f"{refused:.2%}", failed)
