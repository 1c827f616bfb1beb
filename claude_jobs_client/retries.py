"""When a request is sent again: the decision, which performs nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass

from claude_jobs_client.errors import TemporaryError


@dataclass(frozen=True, slots=True)
class Retries:
    """After a broken connection, 429, 502, 503 and 504: backoff that doubles, with jitter.

    Every request can be repeated safely, as every job is sent with an idempotency key. By default
    a gateway may be away for 12 to 24 seconds, which is longer than its restart takes.

    Args:
        tries: requests in all; 1 never tries again.
        first: about how long the first pause is (seconds).
        longest: no pause is longer (seconds), but that which a Retry-After asks for.
        patience: a Retry-After beyond this is an error at once (seconds).
    """

    tries: int = 8
    first: float = 0.25
    longest: float = 8.0
    patience: float = 60.0

    def __post_init__(self) -> None:
        if self.tries < 1 or min(self.first, self.longest, self.patience) < 0:
            raise ValueError("Retries: tries is 1 or more, and no time is negative")

    def pause(self, tried: int, error: TemporaryError) -> float | None:
        """Seconds until the next try, after `tried` of them; None: give up."""
        if tried >= self.tries:
            return None
        backoff = min(self.longest, self.first * 2.0 ** (tried - 1))
        pause = backoff * random.uniform(0.5, 1.0)  # noqa: S311 – spreads the clients
        if error.retry_after is None:
            return pause
        return error.retry_after + pause if error.retry_after <= self.patience else None
