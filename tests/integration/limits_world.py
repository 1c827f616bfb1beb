"""Limiters of several processes on one clock, and a provider that answers as Claude does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from sandbox.stack import Stack
from worker.limits.limiter import Limiter
from worker.limits.shared import PREFIX
from worker.limits.types import Admission, ClassState, Cost, Reservation
from worker.setting_types import LimitCaps
from worker.settings import Settings

MODEL = "claude-sonnet-5-5"
CLASS = "claude-sonnet-5"
SMALL = Cost(100, 10)
#: A minute: ten requests, ten thousand tokens of input, four thousand of output a second.
LIMITS = (600, 600_000, 240_000)
NAMES = ("requests", "input-tokens", "output-tokens")


def headers(
    limits: tuple[int, ...] = LIMITS, remaining: tuple[int, ...] | None = None
) -> dict[str, str]:
    sent = {}
    for name, limit, left in zip(NAMES, limits, remaining or limits, strict=True):
        sent[f"anthropic-ratelimit-{name}-limit"] = str(limit)
        sent[f"anthropic-ratelimit-{name}-remaining"] = str(left)
    return sent


def settings(url: str, share: float = 1.0, caps: dict[str, LimitCaps] | None = None) -> Settings:
    return Settings(
        DATABASE_URL="postgresql://nobody@127.0.0.1:9/none",
        REDIS_URL=url,
        limit_share=share,
        limits=caps or {},
    )


class World:
    """A fleet of limiters; `now` is their time, and that of the script, in seconds."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.now = 1_000_000.0
        self.redis = redis.Redis.from_url(url)
        self.redis.flushdb()
        self._limiters: list[Limiter] = []

    def close(self) -> None:
        for limiter in self._limiters:
            limiter.close()
        self.redis.close()

    def limiter(self, share: float = 1.0, caps: dict[str, LimitCaps] | None = None) -> Limiter:
        """Another process."""
        fresh = Limiter(settings(self.url, share, caps), lambda: 2, lambda: self.now)
        self._limiters.append(fresh)
        return fresh

    def told(
        self, limits: tuple[int, ...] = LIMITS, remaining: tuple[int, ...] | None = None
    ) -> Limiter:
        """A process that has just heard of the limits."""
        limiter = self.limiter()
        settle(limiter, sent(limiter), headers(limits, remaining))
        return limiter

    def state(self, limiter: Limiter) -> ClassState:
        return next(s for s in limiter.snapshot() if s.model_class == CLASS)

    @property
    def key(self) -> str:
        return PREFIX + CLASS


def admit(limiter: Limiter, cost: Cost = SMALL, max_wait: float = 0.0) -> Admission:
    return limiter.admit(MODEL, cost, max_wait)


def held(limiter: Limiter, cost: Cost = SMALL, max_wait: float = 60.0) -> Reservation:
    admission = admit(limiter, cost, max_wait)
    assert admission.reservation is not None
    return admission.reservation


def sent(limiter: Limiter, cost: Cost = SMALL) -> Reservation:
    admission = admit(limiter, cost)
    assert admission.reservation is not None
    assert admission.wait == 0
    return admission.reservation


def settle(
    limiter: Limiter,
    reservation: Reservation,
    response: dict[str, str] | None = None,
    used: Cost = SMALL,
) -> None:
    limiter.settle(reservation, used, response or {})


def admitted(limiter: Limiter, cost: Cost = SMALL, most: int = 5000) -> int:
    """How many go at once."""
    number = 0
    while number < most and admit(limiter, cost).reservation is not None:
        number += 1
    return number


def worlds(stack: Stack) -> Iterator[World]:
    """A database of Valkey that no other test uses: `conftest.py` hands out those below 1000."""
    world = World(stack.valkey.url.removesuffix("/0") + "/1001")
    yield world
    world.close()


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    yield from worlds(stack)
