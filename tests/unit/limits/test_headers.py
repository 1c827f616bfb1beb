from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.limits.headers import Reading, read, retry_after
from worker.limits.types import Buckets

NAMES = ["requests", "input-tokens", "output-tokens", "tokens"]


def headers(**values: str) -> dict[str, str]:
    return {f"anthropic-ratelimit-{name.replace('_', '-')}": v for name, v in values.items()}


def test_all_three_buckets_are_read() -> None:
    reading = read(
        headers(
            requests_limit="1000",
            requests_remaining="999",
            input_tokens_limit="400000",
            input_tokens_remaining="399000",
            output_tokens_limit="80000",
            output_tokens_remaining="0",
            tokens_limit="480000",
            tokens_remaining="479000",
        )
    )

    assert reading.limits == Buckets(1000, 400_000, 80_000)
    assert reading.remaining == Buckets(999, 399_000, 0)


def test_no_headers_are_no_limits() -> None:
    assert read({}) == Reading()


def test_tokens_stand_for_input_where_the_server_does_not_tell_them_apart() -> None:
    assert read(headers(tokens_limit="5000", tokens_remaining="1000")).limits.input == 5000


@pytest.mark.parametrize(
    "value",
    ["", "-1", "0", "nan", "inf", "1e9", "ten", "1,000", "10.5", "٣", "9" * 13, "1000; x", "0x10"],
)
def test_nonsense_is_no_limit(value: str) -> None:
    assert read(headers(requests_limit=value, requests_remaining="5")) == Reading()


@pytest.mark.parametrize("value", ["", "-5", "nan", "lots"])
def test_a_limit_counts_without_what_remains(value: str) -> None:
    reading = read(headers(requests_limit="50", requests_remaining=value))

    assert reading.limits.requests == 50
    assert reading.remaining.requests is None


def test_more_than_the_limit_cannot_remain() -> None:
    assert read(headers(requests_limit="50", requests_remaining="60")).remaining.requests == 50


@given(
    st.dictionaries(
        st.sampled_from(
            [f"anthropic-ratelimit-{n}-{k}" for n in NAMES for k in ("limit", "remaining", "reset")]
            + ["retry-after", "retry-after-ms"]
        ),
        st.text(max_size=5) | st.integers().map(str) | st.floats().map(str),
        max_size=6,
    )
)
def test_whatever_a_server_sends_is_read_as_sane_numbers(sent: dict[str, str]) -> None:
    reading = read(sent)
    for limit, left in zip(reading.limits, reading.remaining, strict=True):
        assert limit is None or 0 < limit < 1e12
        assert left is None or (limit is not None and 0 <= left <= limit)
    seconds = retry_after(sent)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Sun, 22 Nov 2026 20:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 19:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({}, None),
    ],
)
def test_retry_after(sent: dict[str, str], seconds: float | None) -> None:
    assert retry_after(sent, datetime(2026, 11, 22, 20, 0, tzinfo=UTC)) == seconds
