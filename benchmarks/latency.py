"""From enqueueing to the start of the call, when nothing else is going on."""

from __future__ import annotations

import random
import time
from typing import Any

from benchmarks.contenders import ClaudeJobs, Contender, PlainCelery, inputs
from benchmarks.measure import percentile, wait_for
from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack

CONCURRENCY = 50
WARM_UP = 10


def measure(stack: Stack, claude: SimulatedClaude, *, jobs: int) -> dict[str, Any]:
    """One job at a time, the contenders in turn; the clock is the machine's, on both ends."""
    claude.configure(latency=0.0)
    contenders: list[Contender] = [
        ClaudeJobs(stack, "latency", CONCURRENCY),
        PlainCelery(stack, "latency", CONCURRENCY),
    ]
    claude.reset()
    for contender in contenders:
        contender.clear()
    sent: dict[str, float] = {}
    for number, values in enumerate(inputs(WARM_UP + jobs)):
        for contender in contenders:
            tag = f"{contender.name}/{number}"
            sent[tag] = time.time()
            contender.send(values, tag)
            _settled(contender, number + 1)
    for contender in contenders:
        contender.worker.stop()
    received: dict[str, float] = {}
    for entry in claude.ledger():
        received.setdefault(entry.tag or "", entry.received_at)  # the first call, not a retry
    rows = {}
    for contender in contenders:
        tags = [f"{contender.name}/{number}" for number in range(WARM_UP, WARM_UP + jobs)]
        rows[contender.name] = _summary([(received[tag] - sent[tag]) * 1000 for tag in tags])
    return {"jobs": jobs, "concurrency": CONCURRENCY, "contenders": rows}


def _settled(contender: Contender, jobs: int) -> None:
    wait_for(
        lambda: contender.done() >= jobs,
        seconds=30,
        what=f"{contender.name}: job {jobs} alone",
        every=0.005,
    )
    # Of no fixed length: nothing is to fall into step with a poll.
    time.sleep(random.uniform(0.02, 0.06))


def _summary(milliseconds: list[float]) -> dict[str, Any]:
    return {
        "p50_ms": percentile(milliseconds, 0.50),
        "p99_ms": percentile(milliseconds, 0.99),
        "max_ms": max(milliseconds),
        "raw_ms": [round(value, 3) for value in milliseconds],
    }
