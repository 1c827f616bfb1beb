"""Amounts as they are shown: they add up."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.report.amounts import (
    CENT,
    FINE,
    apportion,
    dollars,
    percent,
    relative,
    rounded,
    signed,
    unit_for,
)

AMOUNTS = st.lists(st.decimals("-1e9", "1e9", places=8), min_size=1, max_size=50)


@given(AMOUNTS, st.sampled_from([CENT, FINE]))
def test_rounded_parts_add_up_to_the_rounded_whole(amounts: list[Decimal], unit: Decimal) -> None:
    total = rounded(sum(amounts, Decimal(0)), unit)

    parts = apportion(amounts, total, unit)

    assert sum(parts) == total
    for exact, part in zip(amounts, parts, strict=True):
        assert abs(exact - part) <= unit
        assert part % unit == 0


@given(AMOUNTS, AMOUNTS)
def test_parts_of_a_difference_add_up_to_the_difference_of_what_is_shown(
    now: list[Decimal], before: list[Decimal]
) -> None:
    """Each total is rounded by itself, so their difference may not be that of the exact ones."""
    totals = [rounded(sum(each, Decimal(0)), CENT) for each in (now, before)]
    causes = [*now, *(-each for each in before)]

    parts = apportion(causes, totals[0] - totals[1], CENT)

    assert sum(parts) == totals[0] - totals[1]
    assert all(abs(a - b) <= CENT for a, b in zip(causes, parts, strict=True))


def test_what_is_missing_goes_to_those_that_lost_most() -> None:
    thirds = [Decimal("0.333"), Decimal("0.334"), Decimal("0.333")]
    assert apportion(thirds, Decimal("1.00"), CENT) == [
        Decimal("0.33"),
        Decimal("0.34"),
        Decimal("0.33"),
    ]
    assert apportion([], Decimal(0), CENT) == []
    # $10.005 is shown as $10.00, and $4.995 as $5.00.
    assert apportion([Decimal("5.01")], Decimal("5.00"), CENT) == [Decimal("5.00")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (dollars(Decimal("1234567890.10")), "$1,234,567,890.10"),
        (dollars(Decimal("-0.5000")), "−$0.5000"),
        (signed(Decimal("41.20")), "+$41.20"),
        (signed(Decimal("0.00")), "$0.00"),
        (percent(0.1234), "12 %"),
        (percent(-0.0004), "0 %"),
        (percent(None), "–"),
        (relative(111, 100), "+11 %"),
        (relative(1, 3), "−67 %"),
        (relative(100, 100), "±0 %"),
        (relative(1500, 100), "×15"),
        (relative(5, 0), "new"),
        (relative(0, 0), "–"),
    ],
)
def test_how_amounts_read(text: str, expected: str) -> None:
    assert text == expected


def test_small_weeks_are_shown_in_hundredths_of_a_cent() -> None:
    assert unit_for(Decimal("9.99"), Decimal("0.01")) == FINE
    assert unit_for(Decimal("9.99"), Decimal(10)) == CENT
