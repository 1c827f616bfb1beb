"""What a response says of the limits – or nonsense, which is ignored."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from worker.limits.types import NOTHING, Buckets

_PREFIX = "anthropic-ratelimit-"
_WHOLE = re.compile(r"\s*(\d{1,12})\s*", re.ASCII)

#: A class is not closed for longer than this, whatever a header says (seconds).
LONGEST_CLOSURE = 86_400.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The limits a minute and what remains of them; None where the response does not say."""

    limits: Buckets = NOTHING
    remaining: Buckets = NOTHING


def read(headers: Mapping[str, str]) -> Reading:
    """Read the `anthropic-ratelimit-*` headers (names in lower case).

    A limit has to be positive; what remains counts only beside its limit, and is at most that.
    A server that does not tell input from output tokens has its `tokens` taken for input. `reset`
    is not used: it is when the bucket will be full, which says nothing that the others do not.
    """
    requests = _pair(headers, "requests")
    input_ = _pair(headers, "input-tokens")
    output = _pair(headers, "output-tokens")
    if input_[0] is None and output[0] is None:
        input_ = _pair(headers, "tokens")
    return Reading(
        limits=Buckets(requests[0], input_[0], output[0]),
        remaining=Buckets(requests[1], input_[1], output[1]),
    )


def _pair(headers: Mapping[str, str], name: str) -> tuple[float | None, float | None]:
    limit = _whole(headers.get(f"{_PREFIX}{name}-limit"))
    if not limit:
        return None, None
    remaining = _whole(headers.get(f"{_PREFIX}{name}-remaining"))
    return limit, None if remaining is None else min(remaining, limit)


def _whole(value: str | None) -> float | None:
    match = _WHOLE.fullmatch(value or "")
    return float(match[1]) if match else None


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The seconds that a response asks to wait; None when it does not say, or says nonsense.

    `retry-after-ms` is milliseconds; `retry-after` is seconds or an HTTP date (RFC 9110, 10.2.3).
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is not None or value is None:
        return seconds
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def _seconds(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
