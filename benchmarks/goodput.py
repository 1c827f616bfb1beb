"""Goodput under a limit: how much of it is used, and how many requests are refused with a 429.

Three classes of models, in each of which another bucket binds, are full at the same time. What is
used is read from the account of the simulated Claude, once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from anthropic import Anthropic

from benchmarks.contenders import SAMPLES
from benchmarks.fleets import PROCESSES, SLOTS_PER_MODEL, Fleet, OurFleet, PlainFleet
from benchmarks.measure import BenchmarkError, wait_for
from benchmarks.plain import claude as peer
from sandbox.claude.client import SimulatedClaude
from sandbox.claude.config import model_class
from sandbox.stack import Stack

#: The bucket that binds in the class of a model, and what the account calls its use.
BINDING = {
    "claude-haiku-5-5": ("requests", "admitted"),
    "claude-sonnet-5-5": ("input_tokens", "input_tokens"),
    "claude-opus-5-5": ("output_tokens", "output_tokens"),
}
MODELS = tuple(BINDING)
#: The buckets that do not bind have so many times what is needed.
PLENTY = 10
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

PEERS = {
    "sdk": "plain Celery, the SDK's default retries",
    "loop": "plain Celery, the article's backoff loop",
    "static": f"plain Celery, static limiter at {STATIC_SHARE:.0%}",
}

#: Seconds of any one clock, and what each class has used until then.
Sample = tuple[float, dict[str, dict[str, int]]]
Limits = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Phase:
    """What one class did between two samples: the used part of the binding limit, and 429s."""

    used: float
    requests: int
    rejected: int
    #: The used part in each third of the time: whether it was steady.
    thirds: tuple[float, ...]


def measure(
    stack: Stack, claude: SimulatedClaude, *, settle: float, seconds: float
) -> dict[str, Any]:
    """Each contender in turn: `settle` seconds unmeasured, then `seconds`.

    Ours goes on: all limits are halved, doubled again, and last a 429 is sent to each class.
    """
    claude.configure(latency=LATENCY, tokens_per_second=TOKENS_PER_SECOND, limits=None)
    cost = _typical(claude)
    limits = _limits(cost)
    run = _Run(claude, settle, seconds)
    rows: dict[str, Any] = {}
    fleet: Fleet = OurFleet(stack, MODELS)
    # What three phases and the silence let through, with a reserve.
    jobs = int(RATE * (60 + 3 * (settle + seconds)))
    rows[fleet.name] = run.begin(fleet, jobs, limits)
    changes = {
        "halved": run.phase(_scaled(limits, 0.5)),
        "doubled": run.phase(limits),
    }
    silence = run.silence()
    rows[fleet.name]["lost"] = fleet.lost()
    fleet.stop()
    for strategy, name in PEERS.items():
        peer_fleet = PlainFleet(stack, MODELS, strategy, name, _parts(limits))
        rows[name] = run.begin(peer_fleet, int(RATE * (60 + 2 * (settle + seconds))), limits)
        rows[name]["lost"] = peer_fleet.lost()
        peer_fleet.stop()
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
        self._claude.configure(limits=limits, burst_seconds=LEFT)
        _typical(self._claude)
        self._claude.configure(burst_seconds=MINUTE)
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
        return {bucket: asdict(self._phase(m, samples)) for m, (bucket, _) in BINDING.items()}

    def _phase(self, model: str, samples: Sequence[Sample]) -> Phase:
        name = model_class(model)
        bucket, column = BINDING[model]

        def used(begin: Sample, end: Sample) -> float:
            amount = end[1][name][column] - begin[1].get(name, {}).get(column, 0)
            return amount * 60 / self._limits[name][bucket] / (end[0] - begin[0])

        def grown(what: str) -> int:
            return samples[-1][1][name][what] - samples[0][1].get(name, {}).get(what, 0)

        if name not in samples[-1][1]:
            raise BenchmarkError(f"goodput: no request for {model} reached Claude")
        step = max(1, (len(samples) - 1) // 3)
        marks = [samples[0], samples[step], samples[2 * step], samples[-1]]
        thirds = tuple(used(a, b) for a, b in pairwise(marks) if b[0] > a[0])
        rejected = grown("rejected")
        return Phase(used(samples[0], samples[-1]), grown("admitted") + rejected, rejected, thirds)


def _typical(claude: SimulatedClaude) -> dict[str, dict[str, float]]:
    """Tokens that a job uses, by model, on the average of the samples."""
    made: dict[str, dict[str, float]] = {}
    claude.configure(latency=0.0, tokens_per_second=None)
    with Anthropic(api_key="simulated", base_url=claude.url, max_retries=0) as sdk:
        for model in MODELS:
            usages = [
                sdk.messages.create(
                    model=model,
                    max_tokens=peer.MAX_TOKENS,
                    system=peer.SYSTEM,
                    messages=[{"role": "user", "content": peer.template(**values)}],
                    output_config=peer.OUTPUT_CONFIG,
                ).usage
                for values in SAMPLES
            ]
            made[model] = {
                "input": sum(usage.input_tokens for usage in usages) / len(usages),
                "output": sum(usage.output_tokens for usage in usages) / len(usages),
            }
    claude.configure(latency=LATENCY, tokens_per_second=TOKENS_PER_SECOND)
    return made


def _limits(cost: Mapping[str, Mapping[str, float]]) -> Limits:
    """`RATE` jobs a second fit into the binding bucket of each class."""
    made: Limits = {}
    for model, (binding, _) in BINDING.items():
        a_job = {
            "requests": 1.0,
            "input_tokens": cost[model]["input"],
            "output_tokens": cost[model]["output"],
        }
        made[model_class(model)] = {
            bucket: round(RATE * 60 * amount * (1 if bucket == binding else PLENTY))
            for bucket, amount in a_job.items()
        }
    return made


def _scaled(limits: Limits, factor: float) -> Limits:
    return {
        name: {bucket: round(limit * factor) for bucket, limit in buckets.items()}
        for name, buckets in limits.items()
    }


def _parts(limits: Limits) -> dict[str, list[float]]:
    """What one process of a static fleet may use, by model."""
    part: Callable[[int], float] = lambda limit: limit * STATIC_SHARE / PROCESSES  # noqa: E731
    return {model: [part(v) for v in limits[model_class(model)].values()] for model in MODELS}
