"""What our `usage` table says was paid and saved."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import text

from benchmarks.measure import BenchmarkError
from worker.storage.engine import transaction

#: What was saved, and by what: full price of what no call was made for, half of what went in
#: batches, and the rest of the difference is the prompt cache's.
_BOOKS = """
SELECT source, {coalesced} AS coalesced, count(*) AS rows, sum(cost_usd) AS cost,
       sum(full_cost_usd) AS full_cost, count(*) FILTER (WHERE full_cost_usd IS NULL) AS unpriced
FROM usage GROUP BY 1, 2
"""


def books() -> dict[str, Any]:
    """What `usage` says: dollars paid, at full price, and saved by each means."""
    with transaction() as connection:
        told_apart = connection.execute(
            text(
                "SELECT count(*) FROM information_schema.columns "
                "WHERE table_name = 'usage' AND column_name = 'coalesced'"
            )
        ).scalar_one()
        statement = _BOOKS.format(coalesced="coalesced" if told_apart else "false")
        rows = connection.execute(text(statement)).all()
    if unpriced := sum(row.unpriced for row in rows):
        raise BenchmarkError(f"saving: {unpriced} usage rows have no full price")
    saved = dict.fromkeys(("result cache", "coalescing", "batches", "prompt cache"), Decimal(0))
    for row in rows:
        if row.source == "cache":
            saved["coalescing" if row.coalesced else "result cache"] += row.full_cost - row.cost
        elif row.source == "batch":
            # Half of what it would have cost outside of a batch, prompt cache and all.
            saved["batches"] += row.cost
            saved["prompt cache"] += row.full_cost - 2 * row.cost
        else:
            saved["prompt cache"] += row.full_cost - row.cost
    return {
        "paid": str(sum((row.cost for row in rows), Decimal(0))),
        "full": str(sum((row.full_cost for row in rows), Decimal(0))),
        "by": {name: str(amount) for name, amount in saved.items()},
    }
