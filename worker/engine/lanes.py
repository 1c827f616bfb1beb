"""When a job is tried: its times, and the lane that they allow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.errors import InvalidInput


def in_utc(name: str, time: Any) -> datetime | None:
    """The time `name` in UTC: Postgres knows no zone that is 16 hours or more away; Python does.

    Raises:
        InvalidInput: it is no datetime, has no time zone, or has no place in the calendar.
    """
    if time is None:
        return None
    if not isinstance(time, datetime):
        raise InvalidInput(f"{name} is a {type(time).__name__}: a datetime is expected")
    if time.utcoffset() is None:
        raise InvalidInput(f"{name} has no time zone: use datetime.now(timezone.utc) + …")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(f"{name} {time} is not between the years 1 and 9999") from None


def check_times(run_at: Any, deadline: Any) -> None:
    """Check the times that a job is enqueued with.

    Raises:
        InvalidInput: one is no time in a time zone, or the deadline leaves no time.
    """
    run_at, deadline = in_utc("run_at", run_at), in_utc("deadline", deadline)
    if deadline is None:
        return
    if deadline <= datetime.now(UTC):
        raise InvalidInput(f"deadline {deadline} has passed")
    if run_at is not None and deadline <= run_at:
        raise InvalidInput(f"deadline {deadline} is not after run_at {run_at}")


def lane_of(asked: str | None, options: Mapping[str, Any], batch_hours: float) -> str:
    """The lane of a job: the one that was asked for, or else what its deadline leaves time for.

    `batch_hours` from when it may run, a batch is safe; one that somebody streams is never batched
    unasked. `enqueue_job` in SQL says the same.
    """
    if asked is not None:
        return asked
    deadline, run_at = options.get("deadline"), options.get("run_at")
    if deadline is None or options.get("stream"):
        return "interactive"
    begins = max(filter(None, (datetime.now(UTC), run_at)))
    return "batch" if deadline - begins > timedelta(hours=batch_hours) else "interactive"
