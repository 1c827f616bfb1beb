"""Which days a review is about, at the edges of weeks, years and of what is over."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import InvalidInput
from worker.report.period import WEEKS, Period, choose_period

TODAY = date(2026, 11, 25)  # a Wednesday


def test_the_last_week_that_is_over_unless_something_else_is_asked_for() -> None:
    period = choose_period(None, None, TODAY)

    assert (period.start, period.end, period.days) == (date(2026, 11, 16), date(2026, 11, 23), 7)
    assert (period.name, period.short, period.dates) == ("2026-W47", "W47", "16–22 November 2026")
    assert period.before == Period(date(2026, 11, 9))
    assert period.since == datetime(2026, 11, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("today", "name"),
    [
        (date(2027, 1, 10), "2026-W53"),  # the last day of the week after
        (date(2027, 1, 11), "2027-W01"),
        (date(2026, 1, 5), "2026-W01"),
        (date(2026, 11, 23), "2026-W47"),
    ],
)
def test_years_turn_with_the_week(today: date, name: str) -> None:
    assert choose_period(None, None, today).name == name
    assert choose_period(name, None, today) == choose_period(None, None, today)


def test_a_week_across_two_years_has_53_for_its_number() -> None:
    period = choose_period("2026-W53", None, date(2027, 3, 1))

    assert period.dates == "28 December 2026 – 3 January 2027"
    assert [week.short for week in period.history][-3:] == ["W51", "W52", "W53"]


def test_of_the_present_week_the_days_count_that_are_over() -> None:
    period = choose_period("2026-W48", None, TODAY)

    assert (period.start, period.last, period.days) == (date(2026, 11, 23), date(2026, 11, 24), 2)
    assert period.before == Period(date(2026, 11, 16), 2)
    assert [week.days for week in period.history] == [7] * (WEEKS - 1) + [2]


def test_seven_days_up_to_a_date() -> None:
    period = choose_period(None, "2026-11-24", TODAY)

    assert (period.start, period.days) == (date(2026, 11, 18), 7)
    assert (period.name, period.short) == ("7 days to 2026-11-24", "18 Nov")


@pytest.mark.parametrize(
    ("week", "until", "reason"),
    [
        ("2026-W47", "2026-11-22", "give one of them"),
        ("2026-47", None, "written as in 2026-W47"),
        ("2025-W53", None, "written as in 2026-W47"),
        ("2026-W00", None, "written as in 2026-W47"),
        ("0001-W01", None, "written as in 2026-W47"),
        ("2026-W49", None, "none of its days is over"),
        ("9999-W52", None, "none of its days is over"),
        (None, "22.11.2026", "written as in 2026-11-22"),
        (None, "0001-01-01", "written as in 2026-11-22"),
        (None, "2026-11-25", "that day is not over yet"),
    ],
)
def test_other_days_are_refused(week: str | None, until: str | None, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        choose_period(week, until, TODAY)
    assert "\n" not in str(caught.value)


def test_on_a_monday_nothing_of_the_week_is_over() -> None:
    with pytest.raises(InvalidInput, match="none of its days is over yet"):
        choose_period("2026-W48", None, date(2026, 11, 23))


@given(st.dates(date(1971, 1, 1), date(2999, 12, 31)))
def test_weeks_follow_each_other_without_a_gap(today: date) -> None:
    period = choose_period(None, None, today)

    assert timedelta(0) < today - period.last <= timedelta(7)
    assert choose_period(period.name, None, today) == period
    weeks = period.history
    assert [week.end for week in weeks[:-1]] == [week.start for week in weeks[1:]]
    assert weeks[-2] == period.before
