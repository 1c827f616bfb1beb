"""What a job costs when Claude answers at once: jobs a second, and CPU time of the worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contenders import ClaudeJobs, Contender, PlainCelery
from benchmarks.environment import reason
from benchmarks.measure import BenchmarkError, cpu_seconds, median, ratios, wait_for
from benchmarks.peers import contenders as peers
from sandbox.account import SandboxError
from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack

CONCURRENCY = 50
PREFORK = 8
SECONDS = 120
WARM_UP = 200

#: Until the last acknowledgements and events are out; an idle worker uses next to nothing.
_TAIL = 0.3


@dataclass(frozen=True)
class Round:
    """One contender's run; CPU in milliseconds a job, Claude's calls in all."""

    jobs_per_second: float
    worker_ms: float
    postgres_ms: float
    valkey_ms: float
    calls: int


def measure(
    stack: Stack, claude: SimulatedClaude, *, jobs: int, rounds: int, only: str = ""
) -> dict[str, Any]:
    """Rounds of all contenders in turn, after one to warm up that does not count.

    Who cannot be started, or does not finish, is in `failed` with the reason. `only` limits the
    peers to those with that in their name.
    """
    claude.configure(latency=0.0)
    failed: dict[str, str] = {}
    running: list[Contender] = []
    for name, make in _makers(stack).items():
        if only and running and only not in name:
            continue
        try:
            running.append(make())
        except (SandboxError, BenchmarkError, OSError) as error:
            failed[name] = reason(error)
    measured: dict[str, list[Round]] = {contender.name: [] for contender in running}
    for number in range(rounds + 1):
        for contender in list(running):
            size = jobs if number else min(jobs, WARM_UP)
            try:
                run = _round(stack, claude, contender, size)
            except BenchmarkError as error:
                failed[contender.name] = reason(error)
                measured.pop(contender.name)
                running.remove(contender)
                contender.worker.stop()
                continue
            if number:
                measured[contender.name].append(run)
    for contender in running:
        contender.worker.stop()
    return {
        "jobs_per_round": jobs,
        "rounds": rounds,
        "concurrency": CONCURRENCY,
        "contenders": {name: _summary(runs) for name, runs in measured.items()},
        "failed": failed,
        "cpu_ratios": _ratios(measured, "worker_ms"),
        "speed_ratios": _ratios(measured, "jobs_per_second"),
        "raw": {name: [asdict(run) for run in runs] for name, runs in measured.items()},
    }


def _makers(stack: Stack) -> dict[str, Callable[[], Contender]]:
    prefork = f"plain Celery, prefork × {PREFORK}"
    silent = "plain Celery, nothing for Flower"
    return {
        "claude-jobs": lambda: ClaudeJobs(stack, "overhead", CONCURRENCY),
        "plain Celery": lambda: PlainCelery(stack, "overhead", CONCURRENCY),
        silent: lambda: PlainCelery(stack, "silent", CONCURRENCY, events=False, name=silent),
        prefork: lambda: PlainCelery(stack, "prefork", PREFORK, pool="prefork", name=prefork),
        **peers.makers(stack, CONCURRENCY),
    }


def _round(stack: Stack, claude: SimulatedClaude, contender: Contender, jobs: int) -> Round:
    contender.clear()
    claude.reset()
    contender.hold(jobs)
    pids = (contender.worker.pid, stack.postgres.pid, stack.valkey.pid)
    before = [cpu_seconds(pid) for pid in pids]
    started = time.monotonic()
    contender.release()
    wait_for(
        lambda: contender.done() >= jobs,
        seconds=SECONDS,
        what=f"{contender.name}: {jobs} jobs",
        every=0.1,
    )
    seconds = time.monotonic() - started
    time.sleep(_TAIL)
    used = [(cpu_seconds(pid) - was) * 1000 / jobs for pid, was in zip(pids, before, strict=True)]
    return Round(jobs / seconds, *used, calls=claude.stats()["requests"])


def _summary(runs: list[Round]) -> dict[str, float]:
    columns = ("jobs_per_second", "worker_ms", "postgres_ms", "valkey_ms", "calls")
    return {column: median([getattr(run, column) for run in runs]) for column in columns}


def _ratios(measured: dict[str, list[Round]], column: str) -> dict[str, list[float]]:
    """claude-jobs over each other contender, one ratio a round."""
    (_, ours), *others = measured.items()
    mine = [getattr(run, column) for run in ours]
    return {name: ratios(mine, [getattr(run, column) for run in runs]) for name, runs in others}
