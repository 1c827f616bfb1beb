"""`make bench`: measure, on servers that live as long as the run.

Exits with 0 when all is measured: a bar that is missed is a finding, not a failure of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from benchmarks import (
    call,
    enqueue,
    goodput,
    inflight,
    latency,
    overhead,
    plot,
    saving,
    scale,
    streams,
)
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
RAW = DOCUMENT.with_suffix(".json")
PLOT = DOCUMENT.with_suffix(".svg")
PARTS = (
    "overhead",
    "call",
    "inflight",
    "streams",
    "latency",
    "scale",
    "enqueue",
    "goodput",
    "saving",
)

console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    overhead_jobs: int = 400
    overhead_rounds: int = 5
    calls: int = 200
    call_rounds: int = 20
    in_flight: tuple[inflight.Case, ...] = inflight.CASES
    paced_rate: float = 60.0
    paced_jobs: int = 1800
    streams: int = 200
    stream_rounds: int = 3
    probes: int = 150
    loaded: int = 600
    backlogs: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    backlog_rounds: int = 40
    enqueued: int = 10_000
    enqueue_rounds: int = 3
    goodput_settle: float = 30.0
    goodput_seconds: float = 30.0
    goodput_peers: tuple[str, ...] = tuple(goodput.PEERS)
    saving_cases: tuple[str, ...] = tuple(saving.CASES)
    saving_jobs: int = 1000
    saving_speed: float = 60.0


QUICK = Size(
    overhead_jobs=150,
    overhead_rounds=1,
    calls=50,
    call_rounds=2,
    in_flight=(inflight.Case(1.0, 50, 1, peers=True),),
    paced_jobs=0,
    streams=10,
    stream_rounds=1,
    probes=20,
    loaded=50,
    backlogs=(1_000, 10_000),
    backlog_rounds=4,
    enqueued=2000,
    enqueue_rounds=1,
    goodput_settle=3.0,
    goodput_seconds=3.0,
    goodput_peers=("static",),
    saving_cases=("judged",),
    saving_jobs=100,
    saving_speed=360.0,
)


def main() -> int:
    """Run what was asked for."""
    options = _options()
    if options.redraw:
        _write(json.loads(RAW.read_text(encoding="utf-8")))
        return 0
    size = QUICK if options.quick else Size()
    try:
        results = _measure([options.only] if options.only else list(PARTS), size, options.peer)
    except (SandboxError, ClaudeJobsError, BenchmarkError) as error:
        sys.stderr.write(f"benchmarks: {error}\nlogs are in {FOLDER / 'logs'}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("benchmarks: interrupted; everything is stopped\n")
        return 130
    # What was measured is what can be read again: its keys are strings.
    results = json.loads(json.dumps(results))
    if options.write_docs and options.only:
        results = _merged(results, options.only)
    # A smoke run is too small to be judged by.
    judged = [] if options.quick else verdicts(results)
    results["bars"] = [asdict(verdict) for verdict in judged]
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print_report(console, results, judged)
    console.print(f"\nraw numbers: {RESULTS.relative_to(PROJECT)}")
    if options.write_docs:
        RAW.write_text(json.dumps(results, ensure_ascii=False) + "\n")
        _write(results)
    return 0


def _write(results: dict[str, Any]) -> None:
    """The document and its plot, from the published numbers."""
    DOCUMENT.write_text(document(results, verdicts(results)))
    if why := plot.draw(RAW, PLOT):
        console.print(f"no plot: {why}")
    console.print(f"written: {DOCUMENT.relative_to(PROJECT)}")


def _merged(results: dict[str, Any], part: str) -> dict[str, Any]:
    """The published run with one part measured anew, under conditions of its own."""
    whole: dict[str, Any] = json.loads(RAW.read_text(encoding="utf-8"))
    whole[part] = results[part]
    whole["seconds"] |= results["seconds"]
    whole.setdefault("measured_later", {})[part] = results["conditions"]
    return whole


def _measure(parts: list[str], size: Size, peer: str) -> dict[str, Any]:
    shutil.rmtree(FOLDER, ignore_errors=True)
    console.print("starting Postgres, Valkey and the simulated Claude …")
    claude = SimulatedClaude(seed=1)
    with servers(FOLDER, claude=claude) as stack:
        # Inputs come again and again, and every job is to make its call, as those of peers do.
        stack.environment["CLAUDE_JOBS_CACHE_SECONDS"] = "0"
        use_here(stack.environment)
        results: dict[str, Any] = {
            "conditions": conditions(stack),
            "size": asdict(size),
            "seconds": {},
        }
        for part in parts:
            console.print(f"measuring {part} …")
            started = time.monotonic()
            results[part] = _run(part, stack, claude, size, peer)()
            results["seconds"][part] = round(time.monotonic() - started)
        results["conditions"]["load_15_after"] = round(os.getloadavg()[2], 2)
    return results


def _run(
    part: str, stack: Stack, claude: SimulatedClaude, size: Size, peer: str
) -> Callable[[], dict[str, Any]]:
    return {
        "overhead": lambda: overhead.measure(
            stack,
            claude,
            jobs=size.overhead_jobs,
            rounds=size.overhead_rounds,
            only=peer,
        ),
        "call": lambda: call.measure(claude, calls=size.calls, rounds=size.call_rounds),
        "inflight": lambda: inflight.measure(
            stack, claude, cases=size.in_flight, rate=size.paced_rate, jobs=size.paced_jobs
        ),
        "streams": lambda: streams.measure(
            stack, claude, streams=size.streams, rounds=size.stream_rounds
        ),
        "latency": lambda: latency.measure(stack, claude, idle=size.probes, loaded=size.loaded),
        "scale": lambda: scale.measure(
            stack, claude, sizes=size.backlogs, rounds=size.backlog_rounds, drains=True
        ),
        "enqueue": lambda: enqueue.measure(
            stack, jobs=size.enqueued, rounds=size.enqueue_rounds, folder=FOLDER
        ),
        "goodput": lambda: goodput.measure(
            stack,
            claude,
            settle=size.goodput_settle,
            seconds=size.goodput_seconds,
            peers=size.goodput_peers,
        ),
        "saving": lambda: saving.measure(
            stack,
            claude,
            FOLDER,
            cases=size.saving_cases,
            jobs=size.saving_jobs,
            speed=size.saving_speed,
        ),
    }[part]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run, under a minute")
    parser.add_argument("--only", choices=PARTS, help="measure one thing")
    parser.add_argument("--peer", default="", help="of the peers, those with this in their name")
    parser.add_argument("--write-docs", action="store_true", help="regenerate docs/benchmarks.md")
    parser.add_argument("--redraw", action="store_true", help="the same from its last numbers")
    options = parser.parse_args()
    if options.write_docs and options.quick:
        parser.error("--write-docs takes real sizes: leave out --quick")
    if options.write_docs and options.only and not RAW.exists():
        parser.error(f"--only needs a whole run in {RAW.name} to put its part into")
    return options


if __name__ == "__main__":
    sys.exit(main())
