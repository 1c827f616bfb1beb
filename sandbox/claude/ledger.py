"""The billing ledger: what a request cost, whether or not its reply arrived.

Tests use it as the oracle for the usage that the system under test recorded. It lives in memory and
ends with the process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sandbox.claude.models import MODELS
from sandbox.claude.tokens import Usage

MILLION = Decimal(1_000_000)
NOTHING_USED = Usage()

IN_FLIGHT = "in_flight"
"""Outcome of a request that is not answered yet."""


@dataclass(slots=True)
class LedgerEntry:
    """One request that was received. Times are Unix seconds, amounts are tokens.

    `fault` names the fault that struck it, whatever came of that. `first_text_at` is when the first
    text of a stream was sent, unless a fault struck it.
    """

    index: int
    request_id: str
    received_at: float
    body_sha256: str = ""
    model: str = ""
    tag: str | None = None
    stream: bool = False
    first_text_at: float | None = None
    finished_at: float | None = None
    status: int | None = None
    outcome: str = IN_FLIGHT
    fault: str | None = None
    delivered: bool = False
    billed: bool = False
    usage: Usage = NOTHING_USED
    batch_id: str | None = None
    custom_id: str | None = None

    @property
    def cost_usd(self) -> Decimal:
        """US dollars billed, exact; 0 for a request that generated nothing, half in a batch."""
        if not self.billed:
            return Decimal(0)
        full = cost(self.model, self.usage)
        return full if self.batch_id is None else full / 2

    def as_json(self) -> dict[str, object]:
        """The entry as the control endpoint sends it: flat, the cost as a decimal string."""
        usage = self.usage
        return {
            "index": self.index,
            "request_id": self.request_id,
            "received_at": self.received_at,
            "first_text_at": self.first_text_at,
            "finished_at": self.finished_at,
            "model": self.model,
            "tag": self.tag,
            "stream": self.stream,
            "status": self.status,
            "outcome": self.outcome,
            "fault": self.fault,
            "delivered": self.delivered,
            "billed": self.billed,
            "input_tokens": usage.input_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_write_5m_tokens": usage.cache_write_5m_tokens,
            "cache_write_1h_tokens": usage.cache_write_1h_tokens,
            "output_tokens": usage.output_tokens,
            "thinking_tokens": usage.thinking_tokens,
            "cost_usd": format(self.cost_usd, "f"),
            "body_sha256": self.body_sha256,
            "batch_id": self.batch_id,
            "custom_id": self.custom_id,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> LedgerEntry:
        """The inverse of `as_json`."""
        fields = dict(fields)
        del fields["cost_usd"]
        usage = Usage(**{name: fields.pop(name) for name in Usage.__slots__})
        return cls(usage=usage, **fields)


def cost(model: str, usage: Usage) -> Decimal:
    """US dollars for `usage` of `model`, exact."""
    spec = MODELS[model]
    prices = spec.prices
    if (
        spec.long_prices is not None
        and spec.long_prompt_tokens is not None
        and usage.prompt_tokens > spec.long_prompt_tokens
    ):
        prices = spec.long_prices
    return (
        usage.input_tokens * prices.input
        + usage.cache_read_tokens * prices.cache_read
        + usage.cache_write_5m_tokens * prices.cache_write_5m
        + usage.cache_write_1h_tokens * prices.cache_write_1h
        + usage.output_tokens * prices.output
    ) / MILLION


class Ledger:
    """All requests since the last `clear()`, in the order in which they came."""

    def __init__(self) -> None:
        self._entries: list[LedgerEntry] = []
        self._in_flight: dict[str, LedgerEntry] = {}
        self._max_in_flight = 0
        self._spent = Decimal(0)
        # Summed up when somebody asks: most never do, and decimals are slow.
        self._unsummed: list[LedgerEntry] = []
        self._started_at = time.time()

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return len(self._in_flight)

    @property
    def spent_usd(self) -> Decimal:
        """US dollars billed."""
        self._spent += sum((entry.cost_usd for entry in self._unsummed), Decimal(0))
        self._unsummed.clear()
        return self._spent

    def open(self, request_id: str) -> LedgerEntry:
        """Note that a request came in."""
        entry = LedgerEntry(len(self._entries), request_id, received_at=time.time())
        self._entries.append(entry)
        self._in_flight[request_id] = entry
        self._max_in_flight = max(self._max_in_flight, len(self._in_flight))
        return entry

    def bill(self, entry: LedgerEntry, usage: Usage) -> None:
        """Charge for `usage`: from here on it costs money, whatever happens to the reply."""
        entry.usage = usage
        entry.billed = True
        self._unsummed.append(entry)

    def close(self, entry: LedgerEntry, outcome: str) -> None:
        """Note that no more is sent for it."""
        entry.outcome = outcome
        entry.finished_at = time.time()
        self._in_flight.pop(entry.request_id, None)

    def since(self, index: int) -> Iterator[LedgerEntry]:
        """The entries from `index` on."""
        return iter(self._entries[index:])

    def clear(self) -> None:
        """Forget every request and what it cost; those in flight stay counted as in flight."""
        self._entries.clear()
        self._unsummed.clear()
        self._spent = Decimal(0)
        self._max_in_flight = len(self._in_flight)

    def stats(self) -> dict[str, object]:
        """Counts of requests, and when those in flight came in."""
        return {
            "started_at": self._started_at,
            "requests": len(self._entries),
            "spent_usd": format(self.spent_usd, "f"),
            "in_flight": len(self._in_flight),
            "max_in_flight": self._max_in_flight,
            "in_flight_since": [entry.received_at for entry in self._in_flight.values()],
        }
