"""How many calls a worker holds open at once, the memory that takes, and the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import ClaudeJobs, Contender, PlainCelery, Sender, inputs
from benchmarks.environment import MISSING, PEERS_PYTHON, installed, reason
from benchmarks.measure import BenchmarkError, Memory, cpu_seconds, median, memory
from sandbox.account import SandboxError
from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack

SECONDS = 240
#: Processes of the prefork pool: memory grows with each of them, so a few tell what one takes.
PREFORK = 20
GIB = 2**30
#: Calls in flight whose CPU is compared, at the same jobs a second.
FEW, MANY = 50, 1000


@dataclass(frozen=True)
class Case:
    """Calls of `latency` seconds by `slots` threads, and jobs for how many times the slots.

    With a short latency CPU limits before slots do: 500 calls of 2 s are 250 jobs/s. The article's
    take 8–15 s.
    """

    latency: float
    slots: int
    waves: int
    peers: bool


CASES = (Case(2.0, 500, 4, peers=False), Case(10.0, 1000, 1, peers=True))


def measure(
    stack: Stack, claude: SimulatedClaude, *, cases: tuple[Case, ...], rate: float, jobs: int
) -> dict[str, Any]:
    """Both sides – where the case says so, all of Celery's pools – on fresh workers."""
    measured = []
    for case in cases:
        claude.configure(latency=case.latency)
        rows: dict[str, dict[str, float]] = {}
        failed: dict[str, str] = {}
        for name, (slots, make) in _contenders(stack, case).items():
            try:
                contender = make()
                rows[name] = _run(claude, contender, slots, slots * case.waves)
                contender.worker.stop()
            except (SandboxError, BenchmarkError) as error:
                failed[name] = reason(error)
        measured.append(
            {"latency": case.latency, "slots": case.slots, "contenders": rows, "failed": failed}
        )
    flat = _flat(stack, claude, rate, jobs) if jobs else None
    claude.configure(latency=0.0)
    return {"cases": measured, "flat": flat}


def _contenders(stack: Stack, case: Case) -> dict[str, tuple[int, Callable[[], Contender]]]:
    slots, label = case.slots, f"inflight-{case.latency:g}s"

    def celery(pool: str, name: str, size: int, python: str = "python") -> Callable[[], Contender]:
        def make() -> Contender:
            if python != "python" and not installed():
                raise BenchmarkError(MISSING)
            tag = f"{label}-{pool}"
            return PlainCelery(stack, tag, size, pool=pool, name=name, python=python)

        return make

    threads, gevent = "plain Celery, threads", "plain Celery, gevent"
    prefork = f"plain Celery, prefork × {PREFORK}"
    found: dict[str, tuple[int, Callable[[], Contender]]] = {
        "claude-jobs": (slots, lambda: ClaudeJobs(stack, label, slots)),
        threads: (slots, celery("threads", threads, slots)),
    }
    if case.peers:
        found[gevent] = (slots, celery("gevent", gevent, slots, str(PEERS_PYTHON)))
        found[prefork] = (PREFORK, celery("prefork", prefork, PREFORK))
    return found


def _run(claude: SimulatedClaude, contender: Contender, slots: int, jobs: int) -> dict[str, float]:
    contender.clear()
    claude.reset()
    pid = contender.worker.pid
    time.sleep(1.0)  # whatever a worker does right after its start
    idle = memory(pid)
    contender.hold(jobs)
    cpu = cpu_seconds(pid)
    started = time.monotonic()
    contender.release()
    peak = _watch(contender, jobs, deadline=started + SECONDS)
    seconds = time.monotonic() - started
    in_flight = claude.stats()["max_in_flight"]
    return {
        "slots": slots,
        "jobs": jobs,
        "max_in_flight": in_flight,
        "idle_rss_mb": idle.rss / 1e6,
        "peak_rss_mb": peak.rss / 1e6,
        "peak_pss_mb": peak.pss / 1e6,
        "per_gib": in_flight / (peak.rss / GIB),
        "per_gib_pss": in_flight / (peak.pss / GIB),
        "worker_ms": (cpu_seconds(pid) - cpu) * 1000 / jobs,
        "jobs_per_second": jobs / seconds,
        "calls": claude.stats()["requests"],
    }


def _watch(contender: Contender, jobs: int, *, deadline: float) -> Memory:
    """The most memory seen until all jobs are done."""
    peak = Memory(0, 0)
    while contender.done() < jobs:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{contender.name}: {jobs} jobs not done in {SECONDS} s")
        now = memory(contender.worker.pid)
        peak = Memory(max(peak.rss, now.rss), max(peak.pss, now.pss))
        time.sleep(0.25)
    return peak


def _flat(stack: Stack, claude: SimulatedClaude, rate: float, jobs: int) -> dict[str, Any]:
    """CPU a job of one worker at one steady pace: short calls, of which few are in flight at once,
    then long ones, then short ones again."""
    contender = ClaudeJobs(stack, "flat", MANY + FEW)
    measured: dict[int, list[dict[str, float]]] = {FEW: [], MANY: []}
    _paced(contender, claude, rate, min(jobs, 200), 0.1)
    for calls in (FEW, MANY, FEW):
        measured[calls].append(_paced(contender, claude, rate, jobs, calls / rate))
    contender.worker.stop()
    few, many = ([run["worker_ms"] for run in measured[calls]] for calls in (FEW, MANY))
    return {"rate": rate, "jobs": jobs, "ratio": median(many) / median(few), "runs": measured}


def _paced(
    contender: Sender, claude: SimulatedClaude, rate: float, jobs: int, latency: float
) -> dict[str, float]:
    claude.configure(latency=latency)
    claude.reset()
    contender.clear()
    pid = contender.worker.pid
    cpu, started = cpu_seconds(pid), time.monotonic()
    for number, values in enumerate(inputs(jobs)):
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        contender.send(values, f"user-{number}")
    _watch(contender, jobs, deadline=time.monotonic() + SECONDS)
    return {
        "latency": latency,
        "max_in_flight": claude.stats()["max_in_flight"],
        "worker_ms": (cpu_seconds(pid) - cpu) * 1000 / jobs,
    }
