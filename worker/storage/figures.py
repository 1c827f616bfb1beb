"""Counts, tokens and dollars that can be added: a row of the views, or the sum of many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import attrgetter
from typing import Any


@dataclass(frozen=True, slots=True)
class Figures:
    """The additive columns of `usage_daily`, under their names there (docs/tables.md)."""

    jobs: int = 0
    calls: int = 0
    replies: int = 0
    cache_hits: int = 0
    coalesced_jobs: int = 0
    batch_calls: int = 0
    ok: int = 0
    invalid_output: int = 0
    truncated: int = 0
    refused: int = 0
    rate_limited: int = 0
    failed: int = 0
    in_flight: int = 0
    follow_ups: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    full_cost_usd: Decimal = Decimal(0)
    saved_by_prompt_cache_usd: Decimal = Decimal(0)
    saved_by_batch_usd: Decimal = Decimal(0)
    saved_by_cache_usd: Decimal = Decimal(0)
    saved_by_coalescing_usd: Decimal = Decimal(0)
    unpriced: int = 0
    without_full_cost: int = 0

    @property
    def cache_write_tokens(self) -> int:
        """Input that was written to the prompt cache, for however long."""
        return self.cache_write_5m_tokens + self.cache_write_1h_tokens

    @property
    def all_input_tokens(self) -> int:
        """Input of every kind."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def saved_usd(self) -> Decimal:
        """What was saved, by whatever."""
        return self.full_cost_usd - self.cost_usd

    @property
    def hits(self) -> int:
        """Jobs that made no call of their own."""
        return self.cache_hits + self.coalesced_jobs


COLUMNS = tuple(field.name for field in fields(Figures))
_values = attrgetter(*COLUMNS)


def of_row(row: Any) -> Figures:
    """The figures of a row that has them all."""
    return Figures(*_values(row))


def total(figures: Iterable[Figures]) -> Figures:
    """Their sum."""
    values = [_values(each) for each in figures]
    sums: Iterable[Any] = map(sum, zip(*values, strict=True))
    return Figures(*sums) if values else Figures()


def ratio(part: float | Decimal, whole: float | Decimal) -> float | None:
    """A share or a mean; None of nothing."""
    return float(part) / float(whole) if whole else None
