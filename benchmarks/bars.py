"""The bars, set before anything was measured. A bar that is missed is reported as missed.

The same limits are applied to neighbouring cases, marked `(extra)`: they explain a bar, and neither
meet nor replace it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from benchmarks.measure import median
from benchmarks.saving_report import JUDGED, share_of_plain, unexplained_usd

OURS = "claude-jobs"
PLAIN = "plain Celery"
_EXTRA = " (extra)"
#: Not one worker process, or not a queue.
_NOT_COMPARABLE = ("prefork", "× 8", "no queue")
#: They acknowledge a message before its row is committed.
_EARLY = "plain Celery"
_DEAR, _CENT = Decimal("0.45"), Decimal("0.01")


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
        "streams": _streams,
        "latency": _latency,
        "scale": _scale,
        "enqueue": _enqueue,
        "goodput": _goodput,
        "saving": _saving,
    }
    return [
        verdict
        for name, judge in judges.items()
        if name in results
        for verdict in judge(results[name])
    ]


def _overhead(result: dict[str, Any]) -> list[Verdict]:
    made = []
    for name, values in result["cpu_ratios"].items():
        if name.startswith(PLAIN) and "prefork" not in name:
            what = f"worker CPU a job, over that of {name}{'' if name == PLAIN else _EXTRA}"
            made.append(Verdict(what, "≤ 1.0 ×", _range(values), median(values) <= 1.0))
    for name, values in result["speed_ratios"].items():
        if any(word in name for word in _NOT_COMPARABLE):
            continue
        extra = " (acknowledges early; extra)" if name.startswith(_EARLY) else ""
        what = f"jobs/s of one process, over those of {name}{extra}"
        made.append(Verdict(what, "≥ 1.0 ×", _range(values), median(values) >= 1.0))
    return made


def _range(values: list[float]) -> str:
    return f"{median(values):.2f} × ({min(values):.2f}–{max(values):.2f})"


def _call(result: dict[str, Any]) -> list[Verdict]:
    values = result["differences_ms"]
    measured = f"{median(values):.2f} ms ({min(values):.2f} to {max(values):.2f})"
    what = "engine's CPU a plain call, beyond that of the SDK"
    return [Verdict(what, "≤ 2 ms", measured, median(values) <= 2)]


def _in_flight(result: dict[str, Any]) -> list[Verdict]:
    made = []
    for case in result["cases"]:
        row = case["contenders"].get(OURS)
        if row is None:
            continue
        reached, asked = row["max_in_flight"], case["slots"]
        what = f"calls of {case['latency']:g} s in flight in one process"
        made.append(Verdict(what, f"≥ {asked:,}", f"{reached:,}", reached >= asked))
        if case["latency"] == 10:
            density = row["per_gib"]
            what = "the same, for each GiB of its memory (RSS)"
            made.append(Verdict(what, "≥ 3,000", f"{density:,.0f}", density >= 3000))
    if flat := result["flat"]:
        ratio = flat["ratio"]
        what = "worker CPU a job with 1,000 in flight, over that with 50"
        made.append(Verdict(what, "≤ 1.2 ×", f"{ratio:.2f} ×", ratio <= 1.2))
    return made


def _streams(result: dict[str, Any]) -> list[Verdict]:
    rate, asked = result["rate_p50"], result["chunks_per_second"]
    reached, streams = result["max_streaming"], result["streams"]
    what = (
        f"{streams} streams at once, on one core: chunks/s of each of them (median, and how many)"
    )
    met = reached >= 0.95 * streams and rate >= 0.95 * asked
    kept = Verdict(what, f"{asked}, within 5 %", f"{rate:.1f} ({reached})", met)
    if "first_delta_p95_ms" not in result:  # a run from before streams were published
        return [kept]
    late = result["first_delta_p95_ms"]
    soon = Verdict(
        "Claude's first token to a reader's first text, p95, with all of these streams",
        "≤ 150 ms",
        f"{late:.0f} ms",
        late <= 150,
    )
    return [kept, soon]


def _latency(result: dict[str, Any]) -> list[Verdict]:
    made = []
    for case in result["cases"]:
        p99 = case["contenders"][OURS]["p99_ms"]
        base = case["load"] == "idle" and not case["injected_ms"]
        where = "idle" if case["load"] == "idle" else "half load"
        what = f"enqueueing to call start, p99: {where}, round trips + {case['injected_ms']:g} ms"
        name = what if base else what + _EXTRA
        made.append(Verdict(name, "< 100 ms", f"{p99:.1f} ms", p99 < 100))
    return made


def _scale(result: dict[str, Any]) -> list[Verdict]:
    first, last = result["sizes"][0], result["sizes"][-1]
    made = []
    for measure, extra in (("ratios", ""), ("clock_ratios", f" by the clock{_EXTRA}")):
        for step, by in result[measure].items():
            what = f"{step} with {last:,} jobs queued, over {first:,}{extra}"
            ratio = by[str(last)]
            made.append(Verdict(what, "0.8–1.2 ×", f"{ratio:.2f} ×", 0.8 <= ratio <= 1.2))
    return made


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


def _goodput(result: dict[str, Any]) -> list[Verdict]:
    ours = result["contenders"][OURS]["steady"]
    made = []
    for bucket, row in ours.items():
        what = f"goodput under a limit, {bucket.replace('_', ' ')} binding"
        made.append(Verdict(what, "≥ 97 % of the limit", f"{row['used']:.1%}", row["used"] >= 0.97))
    for change, phase in result["changes"].items():
        parts = [row["used"] for row in phase["steady"].values()]
        measured = f"{min(parts):.1%}–{max(parts):.1%} of the new limit"
        what = f"limit {change}: goodput {result['settle']:g} s later"
        made.append(Verdict(what, "≥ 98 %", measured, min(parts) >= 0.98))
    phases = [ours, *(phase["steady"] for phase in result["changes"].values())]
    rows = [row for phase in phases for row in phase.values()]
    refused = sum(row["rejected"] for row in rows) / max(1, sum(row["requests"] for row in rows))
    early = len(result["silence"]["early"])
    return [
        *made,
        Verdict("429s under a limit", "≤ 0.5 % of requests", f"{refused:.2%}", refused <= 0.005),
        Verdict("requests before a 429's `retry-after` is over", "0", str(early), early == 0),
    ]


def _saving(result: dict[str, Any]) -> list[Verdict]:
    cases = result["cases"]
    share = share_of_plain(cases[JUDGED])
    same = min(
        row["same"] / case["workload"]["jobs"]
        for case in cases.values()
        for row in case["contenders"].values()
    )
    off = max((abs(unexplained_usd(case)) for case in cases.values()), default=Decimal(0))
    return [
        Verdict(
            "dollars paid, over those of plain calls", "≤ 45 %", f"{share:.1%}", share <= _DEAR
        ),
        Verdict(
            "outputs that are equal to those of plain calls", "100 %", f"{same:.1%}", same == 1
        ),
        Verdict(
            "dollars saved by `usage`, less those by the ledgers (largest of all workloads)",
            "to the cent",
            f"${off:.4f}",
            off < _CENT / 2,
        ),
    ]
