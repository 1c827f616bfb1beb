"""`make bench`: measure, on servers that live as long as the run.

Exits with 0 when all is measured: a bar that is missed is a finding, not a failure of the run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from benchmarks import call, enqueue, inflight, latency, overhead
from benchmarks.bars import verdicts
from benchmarks.conditions import conditions
from benchmarks.docs import document
from benchmarks.measure import BenchmarkError
from benchmarks.report import print_report
from sandbox.account import SandboxError
from sandbox.claude.client import SimulatedClaude
from sandbox.service import PROJECT
from sandbox.stack import DATA, Stack, servers, use_here
from worker.errors import ClaudeJobsError

FOLDER = DATA / "bench"
RESULTS = FOLDER / "results.json"
DOCUMENT = PROJECT / "docs" / "benchmarks.md"
PARTS = ("overhead", "call", "inflight", "latency", "enqueue")

console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    overhead_jobs: int = 1500
    overhead_rounds: int = 5
    calls: int = 200
    call_rounds: int = 20
    slots: int = 500
    in_flight: tuple[tuple[float, int], ...] = inflight.CASES
    probes: int = 300
    enqueued: int = 10_000
    enqueue_rounds: int = 3


QUICK = Size(
    overhead_jobs=150,
    overhead_rounds=1,
    calls=50,
    call_rounds=2,
    slots=100,
    in_flight=((1.0, 1),),
    probes=20,
    enqueued=2000,
    enqueue_rounds=1,
)


def main() -> int:
    """Run what was asked for."""
    options = _options()
    size = QUICK if options.quick else Size()
    try:
        results = _measure([options.only] if options.only else list(PARTS), size, options.prefork)
    except (SandboxError, ClaudeJobsError, BenchmarkError) as error:
        sys.stderr.write(f"benchmarks: {error}\nlogs are in {FOLDER / 'logs'}\n")
        return 1
    # A smoke run is too small to be judged by.
    judged = [] if options.quick else verdicts(results)
    results["bars"] = [asdict(verdict) for verdict in judged]
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print_report(console, results, judged)
    console.print(f"\nraw numbers: {RESULTS.relative_to(PROJECT)}")
    if options.write_docs:
        DOCUMENT.write_text(document(results, judged))
        console.print(f"written: {DOCUMENT.relative_to(PROJECT)}")
    return 0


def _measure(parts: list[str], size: Size, prefork: bool) -> dict[str, Any]:
    shutil.rmtree(FOLDER, ignore_errors=True)
    console.print("starting Postgres, Valkey and the simulated Claude …")
    claude = SimulatedClaude(seed=1)
    with servers(FOLDER, claude=claude) as stack:
        use_here(stack.environment)
        results: dict[str, Any] = {"conditions": conditions(stack), "size": asdict(size)}
        for part in parts:
            console.print(f"measuring {part} …")
            results[part] = _run(part, stack, claude, size, prefork)()
    return results


def _run(
    part: str, stack: Stack, claude: SimulatedClaude, size: Size, prefork: bool
) -> Callable[[], dict[str, Any]]:
    return {
        "overhead": lambda: overhead.measure(
            stack,
            claude,
            jobs=size.overhead_jobs,
            rounds=size.overhead_rounds,
            prefork=prefork,
        ),
        "call": lambda: call.measure(claude, calls=size.calls, rounds=size.call_rounds),
        "inflight": lambda: inflight.measure(stack, claude, slots=size.slots, cases=size.in_flight),
        "latency": lambda: latency.measure(stack, claude, jobs=size.probes),
        "enqueue": lambda: enqueue.measure(
            stack, jobs=size.enqueued, rounds=size.enqueue_rounds, folder=FOLDER
        ),
    }[part]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run, under a minute")
    parser.add_argument("--only", choices=PARTS, help="measure one thing")
    parser.add_argument("--prefork", action="store_true", help="the plain task under prefork, too")
    parser.add_argument("--write-docs", action="store_true", help="regenerate docs/benchmarks.md")
    options = parser.parse_args()
    if options.write_docs and (options.quick or options.only):
        parser.error("--write-docs takes a whole run: leave out --quick and --only")
    return options


if __name__ == "__main__":
    sys.exit(main())
