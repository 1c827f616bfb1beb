"""What calls may cost and did cost, against the budgets that concern them.

The sums are kept by the functions of migration 0016, under one lock for the whole fleet. A
reservation is made for a call that has its usage row, and ends when that row says what became of
it: so whoever dies, the row that the rescue ends as `lost` ends the reservation as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, text

#: So long after a budget was set each process has heard of it, and what it sent before is in the
#: usage table (seconds).
_SETTLED_IN = 3.0


class Purchase(NamedTuple):
    """A call that is about to be made, and what it is expected to cost in US dollars.

    `lane` is how it is sent: `batch` as a request of a Message Batch, `interactive` on its own.
    """

    usage_id: int
    task: str
    user_id: str | None
    model: str
    lane: str
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Refusal:
    """A hard budget has no room for a call until `ends_at`, `seconds` from now.

    `holds`: nor for any usual one, so the relay sends no more of its jobs.
    """

    budget: str
    amount_usd: Decimal
    ends_at: datetime
    seconds: float
    holds: bool


_RESERVE = text("""
SELECT r.refused, b.scope, r.subject, b.period, b.lane, b.amount_usd, r.ends_at,
       extract(epoch FROM r.ends_at - now())::float AS seconds, r.held
FROM reserve_spending(:ended, :calls, :tasks, :users, :models, :lanes, :dollars) AS r
JOIN budgets AS b ON b.id = r.budget_id
""")


def reserve(
    connection: Connection, purchases: Sequence[Purchase], ended: Sequence[int] = ()
) -> dict[int, Refusal]:
    """Reserve what these calls are expected to cost; returns those that no budget has room for.

    They are asked for in their order; who gets nothing takes nothing. A call is to be sent after
    the commit. Until then nobody else reserves: the transaction is to be short.

    `ended`: usage rows that were completed since, whose costs replace their reservations.
    """
    values = {
        "ended": list(ended),
        "calls": [each.usage_id for each in purchases],
        "tasks": [each.task for each in purchases],
        "users": [each.user_id for each in purchases],
        "models": [each.model for each in purchases],
        "lanes": [each.lane for each in purchases],
        "dollars": [each.usd for each in purchases],
    }
    return {
        row.refused: Refusal(
            label(row.scope, row.subject, row.period, row.lane),
            row.amount_usd,
            row.ends_at,
            row.seconds,
            row.held,
        )
        for row in connection.execute(_RESERVE, values)
    }


def label(scope: str, name: str, period: str, lane: str | None) -> str:
    """A budget in words: `all per day`, `user:alice per month (batch)`."""
    whose = scope if scope == "all" else f"{scope}:{name}"
    return f"{whose} per {period}" + (f" ({lane})" if lane else "")


def dollars(amount: Decimal) -> str:
    """An amount with two decimal places, or as many more as it has."""
    short = amount.quantize(Decimal("0.01"))
    return f"{short:,f}" if short == amount else f"{amount.normalize():,f}"


_DATE = re.compile(r"-\d{8}$")


def undated(model: str) -> str:
    """The model without the date of its version, as budgets name it."""
    return _DATE.sub("", model)


_BOOK = text("SELECT book_spending(:ended)")


def book(connection: Connection, ended: Sequence[int] | None = None) -> int:
    """Replace reservations by what the calls did cost; returns how many.

    `ended` names usage rows that were completed; None: whatever has ended, whoever made the call.
    """
    values = {"ended": None if ended is None else list(ended)}
    return int(connection.execute(_BOOK, values).scalar_one())


_LOCK = text("SELECT pg_advisory_xact_lock(:key)")
_LOCK_KEY = 0x636C6A62


def lock(connection: Connection) -> None:
    """Let nobody else reserve, book or count until this transaction ends.

    Whoever changes budgets does this first; the functions do it themselves.
    """
    connection.execute(_LOCK, {"key": _LOCK_KEY})


_COUNT = text("SELECT count_spending(:id)")
_UNCOUNTED = text("""
SELECT id FROM budgets
WHERE counted_at IS NULL AND changed_at < clock_timestamp() - make_interval(secs => :settled)
ORDER BY id LIMIT 1
""")
_COUNTED = text("UPDATE budgets SET counted_at = now() WHERE id = :id AND counted_at IS NULL")


def count(connection: Connection, budget_id: int) -> None:
    """Count anew, from the usage table, what was spent of a budget in its present window."""
    connection.execute(_COUNT, {"id": budget_id})


def count_once_more(connection: Connection) -> bool:
    """Count a budget that was set moments ago, now that every process has heard of it.

    Calls that were sent without a reservation until then get their place in the sum. False: there
    is no such budget.
    """
    values = {"settled": _SETTLED_IN}
    budget_id = connection.execute(_UNCOUNTED, values).scalar_one_or_none()
    if budget_id is None:
        return False
    lock(connection)
    if connection.execute(_COUNTED, {"id": budget_id}).rowcount:
        count(connection, budget_id)
    return True


class Kind(NamedTuple):
    """Which calls a budget concerns."""

    scope: str
    name: str
    lane: str | None


_VERSION = text("SELECT coalesce(max(id), 0), count(*) FROM budgets")
_KINDS = text("SELECT DISTINCT scope, name, lane FROM budgets")


def version(connection: Connection) -> tuple[int, int]:
    """The number of the newest budget, and how many there are: they tell whether any came or went.

    Numbers are in the order of commits.
    """
    newest, number = connection.execute(_VERSION).one()
    return newest, number


def kinds(connection: Connection) -> frozenset[Kind]:
    """The kinds of calls that any budget concerns."""
    return frozenset(Kind(*row) for row in connection.execute(_KINDS))


_PRUNE = text("""
DELETE FROM budget_windows WHERE (budget_id, starts_at, subject) IN (
    SELECT budget_id, starts_at, subject FROM budget_windows
    WHERE ends_at < now() - make_interval(secs => :older_than) LIMIT :limit)
""")


def prune(connection: Connection, *, older_than: float, limit: int = 500) -> int:
    """Delete windows that ended `older_than` seconds ago or earlier; returns how many."""
    return connection.execute(_PRUNE, {"older_than": older_than, "limit": limit}).rowcount
