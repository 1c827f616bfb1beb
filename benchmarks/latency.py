"""From enqueueing to the start of the call: idle and at half load, with near and far servers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import redis

from benchmarks.contenders import ClaudeJobs, PlainCelery, Sender, inputs
from benchmarks.measure import median, percentile, wait_for
from benchmarks.proxy import slower
from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack

CONCURRENCY = 50
WARM_UP = 10
#: Milliseconds that a round trip from the worker to Postgres and Redis takes longer.
ROUND_TRIPS = (0.0, 2.0)
#: Jobs that are drained at once to find out what a full load is.
CALIBRATION = 400


def measure(stack: Stack, claude: SimulatedClaude, *, idle: int, loaded: int) -> dict[str, Any]:
    """Both sides in turn, on fresh workers for each length of the way."""
    claude.configure(latency=0.0)
    rng = random.Random(1)
    cases: list[dict[str, Any]] = []
    for milliseconds in ROUND_TRIPS:
        label = f"{milliseconds:g}ms"
        log = stack.logs / f"proxy-{label}.log"
        with slower(stack.environment, milliseconds, log) as environment:
            contenders: list[Sender] = [
                ClaudeJobs(stack, f"latency-{label}", CONCURRENCY, **environment),
                PlainCelery(stack, f"latency-{label}", CONCURRENCY, **environment),
            ]
            common = {
                "injected_ms": milliseconds,
                "measured_ms": _round_trip(stack.environment | environment),
            }
            rows = _idle(claude, contenders, idle, rng)
            cases.append({**common, "load": "idle", "jobs": idle, "contenders": rows})
            full = {contender.name: _capacity(contender) for contender in contenders}
            common["full_load"] = full
            rate = min(full.values()) / 2
            rows = {c.name: _loaded(claude, c, loaded, rate, rng) for c in contenders}
            load = f"{rate:.0f} jobs/s"
            cases.append({**common, "load": load, "jobs": loaded, "contenders": rows})
            for contender in contenders:
                contender.worker.stop()
    return {"concurrency": CONCURRENCY, "cases": cases}


def _idle(
    claude: SimulatedClaude, contenders: list[Sender], jobs: int, rng: random.Random
) -> dict[str, Any]:
    """One job at a time, the contenders in turn."""
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
            # Of no fixed length: nothing is to fall into step with a poll.
            time.sleep(rng.uniform(0.02, 0.06))
    took = _waits(claude, sent)
    return {
        contender.name: _summary(
            [took[f"{contender.name}/{number}"] for number in range(WARM_UP, WARM_UP + jobs)]
        )
        for contender in contenders
    }


def _loaded(
    claude: SimulatedClaude, contender: Sender, jobs: int, rate: float, rng: random.Random
) -> dict[str, Any]:
    """Jobs that come at random, `rate` a second on average, whatever the worker is at."""
    contender.clear()
    claude.reset()
    sent: dict[str, float] = {}
    due = time.monotonic()
    for number, values in enumerate(inputs(jobs)):
        due += rng.expovariate(rate)
        time.sleep(max(0.0, due - time.monotonic()))
        tag = f"{contender.name}/{number}"
        sent[tag] = time.time()
        contender.send(values, tag)
    _settled(contender, jobs)
    return _summary(list(_waits(claude, sent).values()))


def _capacity(contender: Sender) -> float:
    """Jobs a second when there are more than enough."""
    contender.clear()
    contender.hold(CALIBRATION)
    started = time.monotonic()
    contender.release()
    _settled(contender, CALIBRATION)
    return CALIBRATION / (time.monotonic() - started)


def _settled(contender: Sender, jobs: int) -> None:
    wait_for(
        lambda: contender.done() >= jobs,
        seconds=60,
        what=f"{contender.name}: {jobs} jobs",
        every=0.005 if jobs < CALIBRATION else 0.05,
    )


def _waits(claude: SimulatedClaude, sent: dict[str, float]) -> dict[str, float]:
    """Milliseconds from sending to the first call, not to a retry; one clock for both ends."""
    received: dict[str, float] = {}
    for entry in claude.ledger():
        received.setdefault(entry.tag or "", entry.received_at)
    return {tag: (received[tag] - moment) * 1000 for tag, moment in sent.items()}


def _round_trip(environment: dict[str, str]) -> float:
    """Milliseconds of a PING, the median of 100."""
    with redis.Redis.from_url(environment["REDIS_URL"]) as client:
        return median([_milliseconds(client.ping) for _ in range(100)])


def _milliseconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def _summary(milliseconds: list[float]) -> dict[str, Any]:
    return {
        "p50_ms": percentile(milliseconds, 0.50),
        "p99_ms": percentile(milliseconds, 0.99),
        "max_ms": max(milliseconds),
        "raw_ms": [round(value, 3) for value in milliseconds],
    }
