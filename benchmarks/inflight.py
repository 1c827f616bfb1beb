"""How many calls one worker process holds open at once, and the memory that takes."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.contenders import ClaudeJobs, Contender, PlainCelery
from benchmarks.measure import BenchmarkError, Memory, cpu_seconds, memory
from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack

#: Seconds a call takes, and jobs for how many times the slots. With the short one,
#: CPU limits before slots do (500 in flight at 2 s are 250 jobs/s); the article's take 8–15 s.
CASES = ((2.0, 4), (10.0, 2))
SECONDS = 240


def measure(
    stack: Stack, claude: SimulatedClaude, *, slots: int, cases: tuple[tuple[float, int], ...]
) -> dict[str, Any]:
    """Both sides in turn, each on a fresh worker with `slots` threads."""
    measured = []
    for latency, waves in cases:
        claude.configure(latency=latency)
        rows = {}
        for kind in (ClaudeJobs, PlainCelery):
            contender: Contender = kind(stack, f"inflight-{latency:g}s", slots)
            rows[contender.name] = _run(claude, contender, slots * waves)
            contender.worker.stop()
        measured.append({"latency": latency, "jobs": slots * waves, "contenders": rows})
    claude.configure(latency=0.0)
    return {"slots": slots, "cases": measured}


def _run(claude: SimulatedClaude, contender: Contender, jobs: int) -> dict[str, float]:
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
        "max_in_flight": in_flight,
        "idle_rss_mb": idle.rss / 1e6,
        "peak_rss_mb": peak.rss / 1e6,
        "peak_pss_mb": peak.pss / 1e6,
        "kb_per_in_flight": (peak.rss - idle.rss) / 1e3 / in_flight,
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
