"""Which days a review is about. All days are UTC's, so none has 23 or 25 hours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from worker.errors import InvalidInput

_ISO_WEEK = re.compile(r"(\d{4})-W(\d{2})")
_WEEK = timedelta(days=7)
#: Weeks that the charts show, the reviewed one included.
WEEKS = 8


@dataclass(frozen=True, slots=True)
class Period:
    """Seven days, or the beginning of seven that are not over."""

    start: date
    days: int = 7

    @property
    def end(self) -> date:
        """The day after the last one."""
        return self.start + timedelta(days=self.days)

    @property
    def last(self) -> date:
        """The last day."""
        return self.end - timedelta(days=1)

    @property
    def since(self) -> datetime:
        """The moment at which it begins."""
        return datetime.combine(self.start, time(), UTC)

    @property
    def until(self) -> datetime:
        """The moment at which it is over."""
        return datetime.combine(self.end, time(), UTC)

    @property
    def before(self) -> Period:
        """The same days of the week before."""
        return Period(self.start - _WEEK, self.days)

    @property
    def history(self) -> tuple[Period, ...]:
        """Whole weeks up to this one, the oldest first."""
        weeks = (Period(self.start - n * _WEEK) for n in range(WEEKS - 1, 0, -1))
        return (*weeks, self)

    @property
    def name(self) -> str:
        """`2026-W47`, or `7 days to 2026-11-24` where it is no calendar week."""
        if self.start.isoweekday() == 1:
            year, week, _ = self.start.isocalendar()
            return f"{year}-W{week:02}"
        return f"7 days to {self.last.isoformat()}"

    @property
    def short(self) -> str:
        """A name for the axis of a chart: `W47`, or the day on which it begins."""
        if self.start.isoweekday() == 1:
            return f"W{self.start.isocalendar().week:02}"
        return f"{self.start.day} {self.start:%b}"

    @property
    def dates(self) -> str:
        """`16–22 November 2026`."""
        first, last = self.start, self.last
        if first == last:
            return f"{last.day} {last:%B %Y}"
        if first.year != last.year:
            return f"{first.day} {first:%B %Y} – {last.day} {last:%B %Y}"
        if first.month != last.month:
            return f"{first.day} {first:%B} – {last.day} {last:%B %Y}"
        return f"{first.day}–{last.day} {last:%B %Y}"


def choose_period(week: str | None, until: str | None, today: date) -> Period:
    """The days to review: an ISO week, seven days up to a date, or else the last week that is over.

    Of a week that is not over the days count that are; they are compared with the same days of the
    week before.

    Raises:
        InvalidInput: both are given, one is no week or date, or no day of it is over yet.
    """
    if week is not None and until is not None:
        raise InvalidInput("--week and --until both choose the days: give one of them")
    if until is not None:
        return _ending(until, today)
    if week is None:
        return Period(today - timedelta(days=today.weekday()) - _WEEK)
    start = _monday(week)
    over = (today - start).days
    if over < 1:
        raise InvalidInput(
            f"--week {week}: none of its days is over yet (in UTC, today is {today})"
        )
    return Period(start, min(over, 7))


def _monday(week: str) -> date:
    found = _ISO_WEEK.fullmatch(week)
    try:
        if found is None:
            raise ValueError
        return _reviewable(date.fromisocalendar(int(found[1]), int(found[2]), 1))
    except ValueError:
        raise InvalidInput(f"--week {week}: a week is written as in 2026-W47") from None


def _ending(until: str, today: date) -> Period:
    try:
        last = date.fromisoformat(until)
        start = _reviewable(last - timedelta(days=6))
    except (ValueError, OverflowError):
        raise InvalidInput(f"--until {until}: a date is written as in 2026-11-22") from None
    if last >= today:
        raise InvalidInput(f"--until {until}: that day is not over yet (in UTC, today is {today})")
    return Period(start)


def _reviewable(start: date) -> date:
    """The same, if the weeks before it are in the calendar."""
    if start.year < 1970:
        raise ValueError
    return start
