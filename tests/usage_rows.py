"""Usage rows for tests of what is made of them: whole, by the price list, on any day."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

#: A Tuesday, in the week that tests review.
TUESDAY = datetime(2026, 11, 17, 12, tzinfo=UTC)
MONDAY_BEFORE = datetime(2026, 11, 9, 12, tzinfo=UTC)

_DEFAULTS: dict[str, Any] = {
    "job_id": None,
    "task": "summarize_text",
    "user_id": "ann",
    "service": None,
    "attempt": 1,
    "call": 1,
    "outcome": "ok",
    "model": "claude-haiku-5-5",
    "prompt": "summarize_text",
    "prompt_version": "1.0",
    "prompt_sha256": "x",
    "input_tokens": 1000,
    "cache_read_tokens": 0,
    "cache_write_5m_tokens": 0,
    "cache_write_1h_tokens": 0,
    "output_tokens": 200,
    "thinking_tokens": 0,
    # $0.10 and $0.50 a million tokens
    "cost_usd": Decimal("0.0002"),
    "full_cost_usd": Decimal("0.0002"),
    "complete": True,
    "created_at": TUESDAY,
    "finished_at": TUESDAY,
    "source": "api",
    "coalesced": False,
    "inspected": True,
}
_INSERT = text(
    f"INSERT INTO usage ({', '.join(_DEFAULTS)})"
    f" SELECT {', '.join(f':{name}' for name in _DEFAULTS)} FROM generate_series(1, :copies)"
)


def call(connection: Connection, copies: int = 1, **columns: Any) -> None:
    """Insert a usage row, as often as said."""
    assert columns.keys() <= _DEFAULTS.keys(), columns
    connection.execute(_INSERT, {**_DEFAULTS, **columns, "copies": copies})


def hit(connection: Connection, full: str, **columns: Any) -> None:
    """Insert the row of a job that was served from the result cache, or coalesced."""
    nothing = dict.fromkeys(("input_tokens", "output_tokens"), 0)
    money = {"cost_usd": Decimal(0), "full_cost_usd": Decimal(full)}
    call(connection, **{"source": "cache", **nothing, **money, **columns})


def job(connection: Connection, number: int, **columns: Any) -> UUID:
    """Insert a job that succeeded on the Tuesday, and return its id."""
    values = {"id": UUID(int=number), "task": "summarize_text", "state": "succeeded"} | columns
    connection.execute(
        text(
            "INSERT INTO jobs (id, task, input, state, finished_at)"
            " VALUES (:id, :task, '{}', :state, :at)"
        ),
        {"at": TUESDAY, **values},
    )
    return UUID(int=number)
