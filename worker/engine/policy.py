"""What follows a failed attempt: a decision, made from facts alone, that performs nothing."""

from __future__ import annotations

from worker.errors import Decision, Fail, Retry


def decide(*, retryable: bool, attempt: int, max_attempts: int, pause: float) -> Decision:
    """Retry after `pause` seconds while the failure can pass and an attempt is left."""
    if retryable and attempt < max_attempts:
        return Retry(pause)
    return Fail()
