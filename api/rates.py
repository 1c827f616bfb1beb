"""How often a key may be used: counted in Redis, so that it holds over all gateway processes.

While Redis is away, each process counts by itself. So a key's limit is then as many times as high
as there are processes – but nobody is turned away because Redis is, and nobody is without a limit.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from api.problems import Problem
from worker.storage.api_keys import ApiKey

log = structlog.get_logger(__name__)

_SCRIPT = Path(__file__).with_name("rate.lua").read_text(encoding="utf-8")
_PREFIX = "claude-jobs:api:rate:"
#: Longer, and Redis counts as lost; then it is left alone for a while (seconds).
_PATIENCE, _PAUSE = 0.25, 2.0
_MINUTE = 60.0
#: Keys whose use is remembered while Redis is away.
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key stands: `seconds` until the next request may come, or until all is as new."""

    allowed: bool
    remaining: int
    seconds: float

    def headers(self, limit: int) -> dict[str, str]:
        """As the IETF's draft of `RateLimit` has them."""
        return {
            "ratelimit-policy": f'"requests";q={limit};w=60',
            "ratelimit": f'"requests";r={self.remaining};t={math.ceil(self.seconds)}',
        }


class Rates:
    """Counts the requests of keys that have a limit."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(
            redis_url,
            protocol=2,
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = self._client.register_script(_SCRIPT)
        self._local: OrderedDict[str, float] = OrderedDict()
        self._away_until = 0.0

    async def take(self, key: ApiKey) -> dict[str, str]:
        """Count a request; returns the headers that tell how the key stands.

        Raises:
            Problem: 429, the key was used too often.
        """
        limit = key.requests_per_minute
        if limit is None:
            return {}
        standing = await self._shared(str(key.id), limit) or self._by_ourselves(str(key.id), limit)
        headers = standing.headers(limit)
        if standing.allowed:
            return headers
        raise Problem(
            429,
            "too-many-requests",
            f"This key may be used {limit:,} times a minute.",
            headers=headers | {"retry-after": str(math.ceil(standing.seconds))},
        )

    async def _shared(self, key: str, limit: int) -> Standing | None:
        if time.monotonic() < self._away_until:
            return None
        try:
            allowed, remaining, micros = await self._script(keys=[_PREFIX + key], args=[limit])
        except (RedisError, OSError) as error:
            self._away_until = time.monotonic() + _PAUSE
            log.warning("Redis lost: keys are counted by each process", error=type(error).__name__)
            return None
        return Standing(bool(allowed), int(remaining), micros / 1e6)

    def _by_ourselves(self, key: str, limit: int) -> Standing:
        now, cost = time.monotonic(), _MINUTE / limit
        full = max(self._local.get(key, 0.0), now) + cost
        if full - now > _MINUTE + 1e-6:
            return Standing(False, 0, full - now - _MINUTE)
        self._local[key] = full
        self._local.move_to_end(key)
        if len(self._local) > _MOST_REMEMBERED:
            self._local.popitem(last=False)
        return Standing(True, int((_MINUTE - (full - now)) / cost + 0.001), full - now)

    async def close(self) -> None:
        """End the connections to Redis."""
        await self._client.aclose()
