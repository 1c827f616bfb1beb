"""The five bars, set before anything was measured. A bar that is missed is reported as missed.

The same limits are applied to neighbouring cases, marked `(extra)`: they explain a bar, and neither
meet nor replace it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.measure import median

OURS = "claude-jobs"
PLAIN = "plain Celery"
_EXTRA = " (extra)"


@dataclass(frozen=True)
class Verdict:
    """One bar and what was measured against it."""

    what: str
    bar: str
    measured: str
    met: bool


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """A verdict for everything that was measured."""
    judges = {
        "overhead": _overhead,
        "call": _call,
        "inflight": _in_flight,
        "latency": _latency,
        "enqueue": _enqueue,
    }
    return [
        verdict
        for name, judge in judges.items()
        if name in results
        for verdict in judge(results[name])
    ]


def _overhead(result: dict[str, Any]) -> list[Verdict]:
    return [
        Verdict(
            f"worker CPU a job, over that of {name}{'' if name == PLAIN else _EXTRA}",
            "≤ 1.3 ×",
            f"{median(values):.2f} × ({min(values):.2f}–{max(values):.2f})",
            median(values) <= 1.3,
        )
        for name, values in result["cpu_ratios"].items()
    ]


def _call(result: dict[str, Any]) -> list[Verdict]:
    values = result["differences_ms"]
    measured = f"{median(values):.2f} ms ({min(values):.2f} to {max(values):.2f})"
    what = "engine's CPU a plain call, beyond that of the SDK"
    return [Verdict(what, "≤ 2 ms", measured, median(values) <= 2)]


def _in_flight(result: dict[str, Any]) -> list[Verdict]:
    made = []
    for case in result["cases"]:
        reached = case["contenders"][OURS]["max_in_flight"]
        extra = "" if case["latency"] == 2 else _EXTRA
        what = f"calls of {case['latency']:g} s in flight in one process{extra}"
        made.append(Verdict(what, "≥ 500", f"{reached:,}", reached >= 500))
    return made


def _latency(result: dict[str, Any]) -> list[Verdict]:
    p99 = result["contenders"][OURS]["p99_ms"]
    return [Verdict("enqueue to call start when idle, p99", "< 100 ms", f"{p99:.1f} ms", p99 < 100)]


def _enqueue(result: dict[str, Any]) -> list[Verdict]:
    row = result["contenders"][OURS]
    names = {
        "whole_command_per_second": "enqueue-file, start-up of the command included",
        "enqueueing_per_second": f"enqueue-file, by its own clock{_EXTRA}",
    }
    return [
        Verdict(what, "≥ 5,000 jobs/s", f"{row[column]:,.0f} jobs/s", row[column] >= 5000)
        for column, what in names.items()
    ]
