"""Token buckets as Claude's rate limits use them, and the headers that tell how full they are."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from functools import lru_cache

from sandbox.claude.config import ClassLimits

MINUTE = 60.0
PREFIX = "anthropic-ratelimit"
NAMES = ("requests", "input-tokens", "output-tokens")
_ROUNDING = 1000
"""Remaining tokens are told in whole thousands."""
_EPSILON = 1e-6
"""A bucket that is refilled for exactly long enough must not lack a rounding error."""


class Bucket:
    """`limit` a minute, refilled all the time, full at first. Its level may fall below zero."""

    __slots__ = ("_at", "capacity", "level", "limit")

    def __init__(self, limit: int, burst_seconds: float, now: float) -> None:
        self.limit = limit
        self.capacity = limit * burst_seconds / MINUTE
        self.level = self.capacity
        self._at = now

    def refill(self, now: float) -> None:
        """Add what has come in since the last time. Times are seconds of any one clock."""
        self.level = min(self.capacity, self.level + (now - self._at) * self.limit / MINUTE)
        self._at = now

    def seconds_until(self, level: float) -> float:
        """Seconds until it holds `level`, or all that it can; 0 if it does."""
        missing = min(level, self.capacity) - self.level
        return missing * MINUTE / self.limit if missing > _EPSILON else 0.0

    def holds(self, amount: float) -> bool:
        """Whether `amount` can be taken out now."""
        return self.level + _EPSILON >= amount

    def give_back(self, amount: float) -> None:
        """Undo a debit."""
        self.level = min(self.capacity, self.level + amount)


class Buckets:
    """The three buckets of one model class."""

    def __init__(self, limits: ClassLimits, burst_seconds: float, now: float) -> None:
        self.requests = Bucket(limits.requests, burst_seconds, now)
        self.input = Bucket(limits.input_tokens, burst_seconds, now)
        self.output = Bucket(limits.output_tokens, burst_seconds, now)

    def keep_level_of(self, old: Buckets, now: float) -> None:
        """Start with what `old` had left, as far as it fits: new limits are no fresh minute."""
        old.refill(now)
        for mine, its in zip(self._all(), old._all(), strict=True):
            mine.level = min(mine.capacity, its.level)

    def refill(self, now: float) -> None:
        """Add to all three what has come in."""
        for bucket in self._all():
            bucket.refill(now)

    def shortage(self, input_tokens: int) -> tuple[str, int, float] | None:
        """The bucket that lacks longest what a request needs: name, limit, seconds to wait."""
        needs = (
            (self.requests, 1.0),
            (self.input, float(input_tokens)),
            (self.output, 2 * _EPSILON),
        )
        lacking = [
            (bucket.seconds_until(amount), name, bucket.limit)
            for name, (bucket, amount) in zip(NAMES, needs, strict=True)
            if not bucket.holds(amount)
        ]
        if not lacking:
            return None
        seconds, name, limit = max(lacking)
        return name, limit, seconds

    def debit(self, input_tokens: int) -> None:
        """Take out what a request costs on arrival."""
        self.requests.level -= 1
        self.input.level -= input_tokens

    def headers(self, now: float, wall: float) -> Mapping[str, str]:
        """`limit`, `remaining` and `reset` of each bucket, and of all tokens together.

        `tokens` is the sum of input and output, as the API documents it for an account without
        workspace limits; `reset` is when a bucket will be full. `wall` is the Unix time of `now`.
        """
        self.refill(now)
        headers: dict[str, str] = {}
        full_at: list[int] = []
        for name, bucket in zip(NAMES, self._all(), strict=True):
            left = math.floor(max(0.0, bucket.level) + _EPSILON)
            full_at.append(math.ceil(wall + bucket.seconds_until(bucket.capacity)))
            headers |= _three(name, bucket.limit, left, full_at[-1])
        tokens = max(0.0, self.input.level) + max(0.0, self.output.level)
        limit = self.input.limit + self.output.limit
        return headers | _three("tokens", limit, math.floor(tokens), max(full_at[1:]))

    def _all(self) -> tuple[Bucket, Bucket, Bucket]:
        return self.requests, self.input, self.output


def _three(name: str, limit: int, remaining: int, reset: int) -> dict[str, str]:
    if name != "requests":
        remaining = round(remaining / _ROUNDING) * _ROUNDING
    return {
        f"{PREFIX}-{name}-limit": str(limit),
        f"{PREFIX}-{name}-remaining": str(remaining),
        f"{PREFIX}-{name}-reset": _rfc3339(reset),
    }


@lru_cache(maxsize=256)
def _rfc3339(seconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")


def unlimited_headers() -> Mapping[str, str]:
    """The headers of an account whose limits nobody reaches."""
    limits = {
        "requests": 100_000,
        "input-tokens": 50_000_000,
        "output-tokens": 10_000_000,
        "tokens": 60_000_000,
    }
    headers: dict[str, str] = {}
    for name, limit in limits.items():
        headers |= _three(name, limit, limit, 1_893_456_000)  # 2030
    return headers
