"""How the peer meets rate limits; `PLAIN_STRATEGY` names one.

`loop` is the article's retry loop around a client with the SDK's default retries, which is how the
article writes it; `sdk` is that client alone; `static` is that client behind token buckets of this
process, which were set once to its part of the account's limits.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence

from anthropic.types import Message

from benchmarks.plain import claude

Call = Callable[[], Message]
Strategy = Callable[[Call], Message]

#: What a bucket of the static limiter holds at most.
_BURST_SECONDS = 10.0


def strategy() -> Strategy:
    """The one that the environment asks for; `loop` if it names none.

    For `static`, `PLAIN_BUCKETS` is what this process may use a minute, as JSON: requests, tokens
    of input, tokens of output.
    """
    chosen: dict[str, Callable[[], Strategy]] = {
        "loop": lambda: claude.call_with_retry,
        "sdk": lambda: lambda call: call(),
        "static": lambda: StaticLimiter(json.loads(os.environ["PLAIN_BUCKETS"])).call,
    }
    return chosen[os.environ.get("PLAIN_STRATEGY", "loop")]()


class StaticLimiter:
    """Three token buckets in memory; calls wait in line until none lacks what a call uses.

    Generous to the idea: a call is debited with the mean of those before it, and corrected by what
    it did use, so that nothing is lost to bad estimates.
    """

    def __init__(self, limits: Sequence[float]) -> None:
        self._rates = [limit / 60 for limit in limits]
        self._levels = [rate * _BURST_SECONDS for rate in self._rates]
        self._mean = [1.0, 0.0, 0.0]
        self._calls = 0
        self._at = time.monotonic()
        self._line, self._lock = threading.Lock(), threading.Lock()

    def call(self, call: Call) -> Message:
        """Make the call when there is room for it."""
        with self._line:
            while (wait := self._enter()) > 0:
                time.sleep(wait)
        reply = call()
        self._learn([1.0, float(reply.usage.input_tokens), float(reply.usage.output_tokens)])
        return reply

    def _enter(self) -> float:
        """Debit a call; or tell how many seconds to wait, and debit nothing."""
        with self._lock:
            now = time.monotonic()
            seconds, self._at = now - self._at, now
            for index, rate in enumerate(self._rates):
                self._levels[index] = min(
                    rate * _BURST_SECONDS, self._levels[index] + rate * seconds
                )
            lacking = zip(self._mean, self._levels, self._rates, strict=True)
            wait = max((amount - level) / rate for amount, level, rate in lacking)
            if wait <= 0:
                self._take(self._mean)
            return wait

    def _learn(self, used: Sequence[float]) -> None:
        with self._lock:
            self._take([fact - mean for fact, mean in zip(used, self._mean, strict=True)])
            self._calls += 1
            weight = max(0.05, 1 / self._calls)
            for index, fact in enumerate(used):
                self._mean[index] += weight * (fact - self._mean[index])

    def _take(self, amounts: Sequence[float]) -> None:
        for index, amount in enumerate(amounts):
            self._levels[index] -= amount
