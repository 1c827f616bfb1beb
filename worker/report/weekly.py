"""The weekly review: everything that the page and the terminal show, read at one time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

from worker.report.amounts import rounded
from worker.report.change import Kind
from worker.report.period import Period
from worker.report.replies import Lengths
from worker.report.sentences import Explanation, Release
from worker.storage.figures import Figures
from worker.storage.reporting import Rows

Dimension = Literal["task", "prompt version", "model", "user"]


@dataclass(frozen=True, slots=True)
class Line:
    """One task, prompt version, model or user – or all that have no line of their own.

    `shown` and `shown_before` are its dollars, rounded so that a dimension's lines add up to the
    totals as shown. `weeks` are dollars by week, the oldest first; empty for users.
    """

    name: str
    now: Figures
    before: Figures
    shown: Decimal = Decimal(0)
    shown_before: Decimal = Decimal(0)
    weeks: tuple[Decimal, ...] = ()


@dataclass(frozen=True, slots=True)
class Day:
    """A day's dollars, and those of the same day a week earlier."""

    day: date
    cost_usd: Decimal
    cost_usd_before: Decimal


@dataclass(frozen=True, slots=True)
class DayLength:
    """The median output tokens of a prompt version's replies on a day."""

    name: str
    day: date
    replies: int
    median: int


@dataclass(frozen=True, slots=True)
class Ends:
    """How the jobs of a task ended, as far as they have not been deleted."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def failed_share(self) -> float | None:
        """Of those that were not cancelled."""
        ended = self.succeeded + self.failed
        return self.failed / ended if ended else None


@dataclass(frozen=True, slots=True)
class WeeklyReview:
    """A week and the one before it.

    `unit` is what amounts are rounded to. `explanations`, with `unexplained`, and `kinds` each add
    up to `change`; they are empty where there is no week before. `weeks` has a sum for each of
    `period.history`; `releases` are those of four weeks. `jobs` and `alerts` are rows of
    `worker.storage.reporting`.
    """

    period: Period
    made_at: datetime
    unit: Decimal
    compared: bool
    now: Figures
    before: Figures
    weeks: Sequence[Figures]
    days: Sequence[Day]
    lines: Mapping[Dimension, Sequence[Line]]
    explanations: Sequence[Explanation]
    unexplained: Decimal
    kinds: Sequence[tuple[Kind, Decimal]]
    lengths: Sequence[Lengths]
    day_lengths: Sequence[DayLength]
    releases: Sequence[Release]
    tasks: Mapping[str, Figures]
    ends: Mapping[str, Ends]
    jobs: Rows
    alerts: Rows
    notes: Sequence[str]

    @property
    def cost(self) -> Decimal:
        """The week's dollars as shown."""
        return rounded(self.now.cost_usd, self.unit)

    @property
    def cost_before(self) -> Decimal:
        """Those of the week before."""
        return rounded(self.before.cost_usd, self.unit)

    @property
    def change(self) -> Decimal:
        """The difference of the two."""
        return self.cost - self.cost_before

    @property
    def empty(self) -> bool:
        """Whether nothing happened at all."""
        return self.now == Figures()


#: The ways to save, as they are called, and their columns.
SAVINGS = (
    ("Prompt cache", "saved_by_prompt_cache_usd"),
    ("Batches", "saved_by_batch_usd"),
    ("Result cache", "saved_by_cache_usd"),
    ("Coalescing", "saved_by_coalescing_usd"),
)
