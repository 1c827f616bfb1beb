"""Goodput under a limit: how much of it is used, and how many requests are refused with a 429.

Three classes of models, in each of which another bucket binds, are full at the same time. What is
used is read from the account of the simulated Claude, once a second.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.account import (
    BINDING,
    MODELS,
    Limits,
    Sample,
    limits_for,
    parts,
    scaled,
    typical,
    use_of,
)
from benchmarks.fleets import PROCESSES, SLOTS_PER_MODEL, Fleet, OurFleet, PlainFleet
from benchmarks.measure import BenchmarkError, wait_for
from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack

#: Jobs a second that the binding bucket lets through: far from what the machine can do.
RATE = 10.0
#: A call takes half a second and its output at this speed: 1.2 s on the average.
LATENCY, TOKENS_PER_SECOND = 0.5, 100.0
#: Seconds' worth that a bucket holds, and that it begins with.
MINUTE, LEFT = 60.0, 10.0
#: The part of the limits that the static limiter is set to.
STATIC_SHARE = 0.9
#: What a 429 asks for, and what it takes to tell the fleet: requests may be on their way (seconds).
RETRY_AFTER, ON_THEIR_WAY = 5, 0.5

#: Jobs that a peer may use up for each that the limits let through.
FAILING = {"sdk": 6, "loop": 3, "static": 1}
PEERS = {
    "sdk": "plain Celery, the SDK's default retries",
    "loop": "plain Celery, the article's backoff loop",
    "static": f"plain Celery, static limiter at {STATIC_SHARE:.0%}",
}


def measure(
    stack: Stack,
    claude: SimulatedClaude,
    *,
    settle: float,
    seconds: float,
    peers: Sequence[str],
) -> dict[str, Any]:
    """Each contender in turn – ours, then `peers` –: `settle` seconds unmeasured, then `seconds`.

    Ours goes on: all limits are halved, doubled again, and last a 429 is sent to each class.
    """
    claude.configure(latency=0.0, tokens_per_second=None, limits=None)
    cost = typical(claude)
    limits = limits_for(RATE, cost)
    run = _Run(claude, settle, seconds)
    rows: dict[str, Any] = {}
    fleet = OurFleet(stack, MODELS)
    fleet.wait_ready()
    # What three phases and the silence let through, with a reserve.
    jobs = int(RATE * (60 + 3 * (settle + seconds)))
    rows[fleet.name] = run.begin(fleet, jobs, limits)
    changes = {
        "halved": run.phase(scaled(limits, 0.5)),
        "doubled": run.phase(limits),
    }
    silence = run.silence()
    rows[fleet.name]["lost"] = _end(fleet)
    static = parts(limits, STATIC_SHARE / PROCESSES)
    fleets = (PlainFleet(stack, MODELS, kind, PEERS[kind], static) for kind in peers)
    following = next(fleets, None)
    while peer := following:
        peer.wait_ready()
        # Its start falls into the time that is not measured.
        following = next(fleets, None)
        # A job that fails makes way for another: several times what the limits let through.
        jobs = int(RATE * (60 + (settle + seconds) * FAILING[peer.strategy]))
        rows[peer.name] = run.begin(peer, jobs, limits)
        rows[peer.name]["lost"] = _end(peer)
    claude.configure(latency=0.0, tokens_per_second=None, limits=None, burst_seconds=MINUTE)
    return {
        "processes": PROCESSES,
        "slots_per_model": SLOTS_PER_MODEL,
        "rate": RATE,
        "settle": settle,
        "seconds": seconds,
        "tokens": cost,
        "limits": limits,
        "contenders": rows,
        "changes": changes,
        "silence": silence,
    }


def _end(fleet: Fleet) -> tuple[int, int]:
    """Stop it; the jobs that it lost, and all that have ended."""
    if not fleet.fed():
        raise BenchmarkError(f"goodput: {fleet.name} ran out of jobs")
    lost = fleet.lost()
    fleet.stop()
    return lost


class _Run:
    """One contender after the other against the account."""

    def __init__(self, claude: SimulatedClaude, settle: float, seconds: float) -> None:
        self._claude, self._settle, self._seconds = claude, settle, seconds
        self._limits: Limits = {}

    def begin(self, fleet: Fleet, jobs: int, limits: Limits) -> dict[str, Any]:
        """Feed a fleet that meets an account of which `LEFT` seconds are left.

        From an idle account everybody gets a minute's worth at once, and how soon that is used up
        is up to the machine.
        """
        self._claude.reset()
        at_once = {"latency": 0.0, "tokens_per_second": None}
        self._claude.configure(limits=limits, burst_seconds=LEFT, **at_once)
        typical(self._claude)
        self._claude.configure(
            burst_seconds=MINUTE, latency=LATENCY, tokens_per_second=TOKENS_PER_SECOND
        )
        fleet.feed(jobs)
        return self.phase(limits)

    def phase(self, limits: Limits) -> dict[str, Any]:
        """Set the limits, and see what is used of them: at first, and once it should be settled."""
        self._limits = limits
        self._claude.configure(limits=limits)
        first = self._watch(self._settle)
        steady = self._watch(self._seconds, first[-1])
        return {
            "first": self._judge(first),
            "steady": self._judge(steady),
            "samples": [*first, *steady[1:]],
        }

    def silence(self) -> dict[str, Any]:
        """A 429 in each class: which requests come before its `retry-after` is over."""
        before = len(self._claude.ledger())
        for model in MODELS:
            self._claude.faults(
                {"match": model, "status": 429, "headers": {"retry-after": str(RETRY_AFTER)}}
            )
        wait_for(
            lambda: not self._claude.remaining_faults(),
            seconds=30,
            what="a 429 for each class",
            every=0.1,
        )
        self._watch(RETRY_AFTER + 5)
        entries = self._claude.ledger(before)
        early, latest, after = [], [], []
        for model in MODELS:
            mine = [entry for entry in entries if entry.model == model]
            told = next(e.finished_at for e in mine if e.fault and e.status == 429)
            assert told is not None
            came = [e.received_at - told for e in mine if e.received_at > told]
            early += [at for at in came if ON_THEIR_WAY <= at < RETRY_AFTER]
            latest.append(max((at for at in came if at < ON_THEIR_WAY), default=0.0))
            after.append(min((at for at in came if at >= RETRY_AFTER), default=-1.0))
        return {"early": early, "last_on_its_way": latest, "first_after": after}

    def _watch(self, seconds: float, first: Sample | None = None) -> list[Sample]:
        """What is used, once a second; from `first` on, if it was taken just now."""
        samples = [first or self._sample()]
        until = samples[0][0] + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            samples.append(self._sample())
        return samples

    def _sample(self) -> Sample:
        asked = time.monotonic()
        classes = self._claude.stats()["classes"]
        return (asked + time.monotonic()) / 2, classes

    def _judge(self, samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
        """What each class did, by the bucket that binds there."""
        return {
            bucket: asdict(use_of(model, self._limits, samples))
            for model, (bucket, _) in BINDING.items()
        }
