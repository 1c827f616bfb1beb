"""A fleet at Claude's limits, in simulated time.

The decisions are the real ones – `worker.limits` and its script in a real Valkey –, the provider is
a small model of Claude's token buckets, and the clock is simulated: ten minutes take seconds.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import redis

from worker.limits.limiter import Limiter
from worker.limits.types import Cost, Reservation
from worker.settings import Settings

MODEL = "claude-sonnet-5-5"
#: A caller that waits looks again after so many seconds: limits may have been raised.
PATIENCE = 5.0
NAMES = ("requests", "input-tokens", "output-tokens")


@dataclass
class Provider:
    """Claude's buckets: each holds a minute's limit and refills continuously."""

    limits: tuple[float, float, float]
    levels: list[float] = field(default_factory=list)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.levels = self.levels or list(self.limits)

    def refill(self, now: float) -> None:
        for index, limit in enumerate(self.limits):
            grown = self.levels[index] + limit / 60 * (now - self.at)
            self.levels[index] = min(limit, grown)
        self.at = now

    def arrive(self, now: float, tokens: float) -> float | None:
        """Debit a request; or, if it does not fit, the seconds until it would."""
        self.refill(now)
        needs = (1.0, tokens, 1e-9)
        waits = [
            (need - level) * 60 / limit
            for need, level, limit in zip(needs, self.levels, self.limits, strict=True)
        ]
        if max(waits) > 0:
            return float(math.ceil(max(waits)))
        self.levels[0] -= 1
        self.levels[1] -= tokens
        return None

    def headers(self, now: float) -> dict[str, str]:
        self.refill(now)
        headers = {}
        for name, limit, level in zip(NAMES, self.limits, self.levels, strict=True):
            left = max(0.0, level)
            left = math.floor(left) if name == "requests" else round(left / 1000) * 1000
            headers[f"anthropic-ratelimit-{name}-limit"] = str(int(limit))
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(int(left))
        return headers


@dataclass
class Scenario:
    """Who asks for how much, and what happens meanwhile."""

    limits: tuple[float, float, float]
    seconds: float = 300.0
    clients: int = 4
    workers: int = 100
    input: float = 1000.0
    output: float = 400.0
    spread: float = 0.4
    latency: float = 4.0
    max_wait: float = 30.0
    seed: int = 1
    #: When the headers are computed: as the request comes, or as its reply is complete.
    headers_at: str = "arrival"
    #: (second, factor on the limits)
    changes: tuple[tuple[float, float], ...] = ()
    #: What others on the account use of each limit.
    others: float = 0.0
    flush_at: float | None = None
    share: float = 1.0


@dataclass
class Outcome:
    """What the provider saw: for each second, requests, input and output tokens admitted."""

    served: list[list[float]]
    refused: int = 0
    sent: int = 0

    def rate(self, bucket: int, start: float, end: float) -> float:
        """Served a minute between two seconds."""
        return sum(row[bucket] for row in self.served[int(start) : int(end)]) * 60 / (end - start)


def simulate(url: str, scenario: Scenario) -> Outcome:
    """Run the scenario on the Valkey at `url`, whose database is flushed first."""
    with redis.Redis.from_url(url) as server:
        server.flushdb()
        return Simulation(url, scenario, server).run()


class Simulation:
    """Callers that do as they are told, and what comes of it."""

    def __init__(self, url: str, scenario: Scenario, server: redis.Redis) -> None:
        self.scenario, self.server = scenario, server
        self.rng = random.Random(scenario.seed)
        self.start = self.now = 1_000_000.0
        self.provider = Provider(scenario.limits, at=self.now)
        self.outcome = Outcome([[0.0, 0.0, 0.0] for _ in range(int(scenario.seconds) + 1)])
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ids = itertools.count()
        settings = Settings(
            DATABASE_URL="postgresql://127.0.0.1:9/none",
            REDIS_URL=url,
            limit_share=scenario.share,
        )
        self.fleet = [
            Limiter(settings, lambda: scenario.clients, lambda: self.now)
            for _ in range(scenario.clients)
        ]

    def run(self) -> Outcome:
        scenario = self.scenario
        for limiter in self.fleet:
            for _ in range(scenario.workers):
                self.after(self.rng.random(), partial(self.begin, limiter))
        for second, factor in scenario.changes:
            self.after(second, partial(self.change, factor))
        if scenario.flush_at is not None:
            self.after(scenario.flush_at, self.server.flushdb)
        if scenario.others:
            self.after(0.0, self.others)
        while self._events[0][0] < self.start + scenario.seconds:
            self.now, _, action = heapq.heappop(self._events)
            action()
        for limiter in self.fleet:
            limiter.close()
        return self.outcome

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._ids), action))  # type: ignore

    def noisy(self, mean: float) -> float:
        sigma = self.scenario.spread
        return mean * self.rng.lognormvariate(-sigma * sigma / 2, sigma)

    def count(self, bucket: int, amount: float) -> None:
        self.outcome.served[int(self.now - self.start)][bucket] += amount

    # A caller.

    def begin(self, limiter: Limiter) -> None:
        cost = Cost(self.scenario.input, self.scenario.output)
        admission = limiter.admit(MODEL, cost, self.scenario.max_wait)
        if admission.reservation is None:
            self.after(admission.wait + self.rng.random(), partial(self.begin, limiter))
        else:
            self.wait(limiter, admission.reservation, admission.wait)

    def wait(self, limiter: Limiter, reservation: Reservation, seconds: float) -> None:
        if seconds > self.scenario.max_wait:
            limiter.release(reservation)
            self.after(seconds, partial(self.begin, limiter))
        elif seconds:
            self.after(min(seconds, PATIENCE), partial(self.confirm, limiter, reservation))
        else:
            self.outcome.sent += 1
            self.after(self.rng.uniform(0.001, 0.02), partial(self.arrive, limiter, reservation))

    def confirm(self, limiter: Limiter, reservation: Reservation) -> None:
        self.wait(limiter, reservation, limiter.confirm(reservation))

    # The provider.

    def arrive(self, limiter: Limiter, reservation: Reservation) -> None:
        scenario = self.scenario
        used = Cost(self.noisy(scenario.input), self.noisy(scenario.output))
        refusal = self.provider.arrive(self.now, used.input)
        headers = self.provider.headers(self.now)
        if refusal is not None:
            self.outcome.refused += 1
            headers["retry-after"] = str(int(refusal))
            limiter.rejected(reservation, headers, "rate_limited")
            self.after(refusal + self.rng.random(), partial(self.begin, limiter))
            return
        self.count(0, 1)
        self.count(1, used.input)
        length = 0.3 + 0.7 * used.output / scenario.output
        latency = scenario.latency * length * self.rng.uniform(0.7, 1.3)
        self.after(latency, partial(self.complete, limiter, reservation, used, headers))

    def complete(
        self, limiter: Limiter, reservation: Reservation, used: Cost, headers: dict[str, str]
    ) -> None:
        self.provider.refill(self.now)
        self.provider.levels[2] -= used.output
        self.count(2, used.output)
        if self.scenario.headers_at == "completion":
            headers = self.provider.headers(self.now)
        limiter.settle(reservation, used, headers)
        self.begin(limiter)

    def change(self, factor: float) -> None:
        provider = self.provider
        provider.refill(self.now)
        requests, tokens, written = self.scenario.limits
        provider.limits = (requests * factor, tokens * factor, written * factor)
        provider.levels = [min(x, y) for x, y in zip(provider.levels, provider.limits, strict=True)]

    def others(self) -> None:
        self.provider.refill(self.now)
        for index, limit in enumerate(self.provider.limits):
            self.provider.levels[index] -= limit / 60 * self.scenario.others
        self.after(1.0, self.others)
