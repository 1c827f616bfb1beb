"""What the fleet knows of Claude's prompt cache: which prefixes are warm, and who warms one.

One key a prefix in Redis, with an expiry, so that nothing has to be cleaned up. It holds the
name of whoever makes the first call, and that only for seconds unless it is renewed; or that the
prefix can be read, for as long as Claude keeps it; or that Claude does not cache it. Any key may be
deleted at any time: that costs the write of a prefix, never a job.
"""

from __future__ import annotations

import threading
import time
from typing import Literal, NamedTuple

import redis
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.redis_script import Script

log = structlog.get_logger(__name__)

_KEYS = "claude-jobs:warm:"

#: Longer, and Redis counts as lost (seconds).
_PATIENCE = 0.25
#: Before a Redis that was lost is asked again (seconds).
_PAUSE = 1.0

#: What is known stays, if it holds for longer; who leads is replaced by it.
_SCRIPT = """
local key, operation, word, ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('GET', key)
if operation == 'enter' then
  if held then return {held, redis.call('PTTL', key)} end
  redis.call('SET', key, word, 'PX', ms)
  return {word, ms}
elseif operation == 'keep' then
  if held == word then redis.call('PEXPIRE', key, ms) end
elseif operation == 'leave' then
  if held == word then redis.call('DEL', key) end
elseif held ~= word or redis.call('PTTL', key) < tonumber(ms) then  -- tell
  redis.call('SET', key, word, 'PX', ms)
end
return {word, ms}
"""

#: A prefix can be read; or Claude does not cache it, since it is shorter than the model's minimum.
Known = Literal["warm", "uncached"]


class Standing(NamedTuple):
    """How a prefix stands, and for how many seconds at most that holds.

    `yours`: whoever asked makes the first call. `theirs`: somebody else does.
    """

    state: Known | Literal["yours", "theirs"]
    seconds: float


class Warmth:
    """Asks Redis, and does without it while it is away: no method raises, none hangs."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = Script(self._client.connection_pool, _SCRIPT)
        self._lock = threading.Lock()
        self._lost = False
        self._retry_at = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._script.close()
        self._client.close()

    def enter(self, prefix: str, who: str, seconds: float) -> Standing | None:
        """How the prefix stands; `who` leads for `seconds` if nothing is known of it.

        None: Redis cannot be asked.
        """
        answer = self._run(prefix, "enter", who, seconds)
        if answer is None:
            return None
        word, milliseconds = answer
        left = max(0.0, int(milliseconds) / 1000)
        match word.decode():
            case "warm":
                return Standing("warm", left)
            case "uncached":
                return Standing("uncached", left)
            case other:
                return Standing("yours" if other == who else "theirs", left)

    def keep(self, prefix: str, who: str, seconds: float) -> None:
        """`who` is still at it, for `seconds` from now."""
        self._run(prefix, "keep", who, seconds)

    def leave(self, prefix: str, who: str) -> None:
        """`who` will not make the first call after all: the next may."""
        self._run(prefix, "leave", who, 0.0)

    def tell(self, prefix: str, known: Known, seconds: float) -> None:
        """What a reply has shown, and for how long it holds."""
        self._run(prefix, "tell", known, seconds)

    def _run(self, prefix: str, operation: str, word: str, seconds: float) -> list[bytes] | None:
        if not self._may_ask():
            return None
        call = (_KEYS + prefix, operation, word, max(1, round(seconds * 1000)))
        try:
            (answer,) = self._script.run([call])
        except (RedisError, OSError) as error:
            self._note(error)
            return None
        if self._lost:
            self._note(None)
        return list(answer)

    def _may_ask(self) -> bool:
        """While Redis is away, one thread a second looks for it."""
        if not self._lost:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._retry_at:
                return False
            self._retry_at = now + _PAUSE
            return True

    def _note(self, error: Exception | None) -> None:
        with self._lock:
            was_lost, self._lost = self._lost, error is not None
            self._retry_at = time.monotonic() + _PAUSE
        if error is not None and not was_lost:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            log.warning("Redis lost: each process fills the prompt cache by itself", error=reason)
        elif error is None and was_lost:
            log.info("Redis is back: the fleet fills the prompt cache together again")
