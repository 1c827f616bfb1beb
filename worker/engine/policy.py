"""What follows a failed call: a decision made from facts alone, which performs nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass

from worker.claude.facts import CallFacts
from worker.errors import Abandon, Cancelled, Decision, Fail, PauseQueue, Retry, Snooze
from worker.limits.headers import retry_after

#: A rate limit that does not say when to come back: its bucket refills by the minute.
_RATE_LIMIT_PAUSE = 15.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter, in seconds.

    After attempt n the pause is uniform in 0 … min(cap, base · 2ⁿ⁻¹): the spread keeps jobs that
    failed together from coming back together. [Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015]
    """

    base: float = 1.0
    cap: float = 60.0

    def ceiling(self, attempt: int) -> float:
        """The longest pause after `attempt` (from 1)."""
        # The exponent is bounded before the power is taken: 2.0 ** 5000 is an error.
        return min(self.cap, self.base * 2.0 ** min(attempt - 1, 60))

    def pause(self, attempt: int, chance: float) -> float:
        """The pause after `attempt`; `chance` is uniform in 0 … 1."""
        return self.ceiling(attempt) * chance


DEFAULT_BACKOFF = Backoff()


@dataclass(frozen=True, slots=True)
class Budget:
    """How much trying a job is worth: attempts, and seconds left until its deadline.

    `spent`: its tokens or its dollars are used up.
    """

    attempt: int
    max_attempts: int
    seconds_left: float
    spent: bool = False


def decide(
    facts: CallFacts, budget: Budget, backoff: Backoff, *, chance: float | None = None
) -> Decision:
    """The decision for a failed call.

    A `retry-after` is never undercut: jitter is added to it. `chance` replaces the random number,
    for tests.
    """
    chance = random.random() if chance is None else chance  # noqa: S311 – spreads load, no secret
    pause = backoff.pause(budget.attempt, chance)
    asked = retry_after(facts.headers)
    match facts.kind:
        case "aborted":
            return _after_abort(facts)
        case "spend_limit":
            return PauseQueue("spend limit reached")
        case "terminal":
            return Fail()
        case "rate_limited":
            # No attempt: the request was good, there was no room for it.
            wait = (_RATE_LIMIT_PAUSE * chance if asked is None else asked) + pause
            return Snooze(wait) if wait < budget.seconds_left else Fail()
        case "transient":
            wait = (asked or 0.0) + pause
            left = budget.attempt < budget.max_attempts and not budget.spent
            return Retry(wait) if left and wait < budget.seconds_left else Fail()


def _after_abort(facts: CallFacts) -> Decision:
    match facts.aborted:
        case "cancelled":
            return Cancelled()
        case "lost":
            return Abandon()
        case _:
            return Snooze(0.0)
