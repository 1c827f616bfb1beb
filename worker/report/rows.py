"""The rows of `usage_daily` that a review is made of, and ways to sum them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

from sqlalchemy import Connection

from worker.report.change import Group
from worker.report.period import Period
from worker.storage import reporting
from worker.storage.figures import Figures, of_row, total

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `usage_daily`, summed over services and sources."""

    day: date
    task: str
    prompt: str
    version: str
    model: str
    figures: Figures

    @property
    def group(self) -> Group:
        """What a change is explained by."""
        return self.task, self.prompt, self.version

    @property
    def prompt_version(self) -> str:
        """`prompt/version`."""
        return f"{self.prompt}/{self.version}"


def read_rows(connection: Connection, first: date, after: date) -> list[Row]:
    """The rows of the days from `first` to the one before `after`."""
    return [
        Row(r.day, r.task, r.prompt, r.prompt_version, r.model, of_row(r))
        for r in reporting.days(connection, first, after)
    ]


def within(rows: Iterable[Row], period: Period) -> list[Row]:
    """Those of a period."""
    return [row for row in rows if period.start <= row.day < period.end]


def total_by(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, Figures]:
    """A sum for each value of a key."""
    by: dict[K, list[Figures]] = defaultdict(list)
    for row in rows:
        by[key(row)].append(row.figures)
    return {value: total(figures) for value, figures in by.items()}


def grouped(rows: Sequence[Row]) -> dict[Group, dict[str, Figures]]:
    """Sums by task, prompt and version, and below that by model."""
    groups: dict[Group, dict[str, Figures]] = defaultdict(dict)
    for (group, model), figures in total_by(rows, lambda row: (row.group, row.model)).items():
        groups[group][model] = figures
    return dict(groups)
