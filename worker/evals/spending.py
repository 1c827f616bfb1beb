"""The cost cap of a run: when a job may be sent, and what was spent.

A job reserves what its dearest reply would cost. It waits for others while that does not fit under
the cap, and is sent alone if it would not fit anyway: a run exceeds its cap by one job at most,
apart from what repairs and further attempts of the jobs in flight add.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import RowMapping

#: Outcomes of calls that may have been billed although no usage came back.
_UNKNOWN = frozenset(("in_flight", "lost", "interrupted", "timeout", "connection_error"))


@dataclass
class Spending:
    """What a run has cost, and what the jobs that it waits for may cost yet, in US dollars."""

    cap: Decimal
    #: What calls have cost, by their usage.
    known: Decimal = Decimal(0)
    #: The most that calls can have cost whose usage nobody knows.
    suspected: Decimal = Decimal(0)
    #: Calls of which the one or the other is unknown.
    unpriced: int = 0
    reserved: Decimal = Decimal(0)
    in_flight: int = 0

    @property
    def spent(self) -> Decimal:
        """What counts towards the cap."""
        return self.known + self.suspected

    @property
    def used_up(self) -> bool:
        """Whether nothing more may be sent."""
        return self.spent >= self.cap

    def must_wait(self, worst: Decimal) -> bool:
        """Whether a job that may cost `worst` has to wait for one that runs."""
        return self.in_flight > 0 and self.spent + self.reserved + worst > self.cap

    def reserve(self, worst: Decimal) -> None:
        """A job is sent that may cost `worst`."""
        self.reserved += worst
        self.in_flight += 1

    def give_up(self, worst: Decimal) -> None:
        """It is not waited for any more: what it costs will not be known."""
        self.reserved -= worst
        self.in_flight -= 1
        self.suspected += worst
        self.unpriced += 1

    def settle(self, worst: Decimal, calls: Iterable[RowMapping]) -> None:
        """It has ended, after these `calls` (rows of `usage`)."""
        self.reserved -= worst
        self.in_flight -= 1
        for call in calls:
            if call["cost_usd"] is not None:
                self.known += call["cost_usd"]
            elif call["complete"] or call["outcome"] in _UNKNOWN:
                self.suspected += worst
                self.unpriced += 1
