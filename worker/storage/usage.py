"""Sums over the usage table: what was spent, and how long the replies are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, RowMapping, text

Dimension = Literal["task", "prompt", "model", "user", "day", "outcome"]

#: What each dimension groups by; never taken from outside.
_KEYS: dict[Dimension, str] = {
    "task": "task",
    "prompt": "prompt || '/' || prompt_version",
    "model": "model",
    "user": "coalesce(user_id, '-')",
    "day": "to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "outcome": "outcome",
}

_TOTALS = """
SELECT {key} AS key, count(DISTINCT job_id) AS jobs,
       count(*) FILTER (WHERE source <> 'cache') AS calls,
       count(*) FILTER (WHERE source <> 'cache' AND outcome = 'ok') AS ok,
       count(*) FILTER (WHERE source = 'cache' AND NOT coalesced) AS hits,
       count(*) FILTER (WHERE coalesced) AS coalesced,
       coalesce(sum(full_cost_usd) FILTER (WHERE source = 'cache'), 0) AS spared_usd,
       coalesce(sum(input_tokens), 0) AS input_tokens,
       coalesce(sum(cache_read_tokens), 0) AS cache_read_tokens,
       coalesce(sum(cache_write_5m_tokens + cache_write_1h_tokens), 0) AS cache_write_tokens,
       coalesce(sum(output_tokens), 0) AS output_tokens,
       coalesce(sum(thinking_tokens), 0) AS thinking_tokens,
       coalesce(sum(cost_usd), 0) AS cost_usd,
       count(*) FILTER (WHERE cost_usd IS NULL AND complete) AS unpriced
FROM usage WHERE created_at >= :since
GROUP BY 1 ORDER BY {order}
"""


def totals(connection: Connection, by: Dimension, since: datetime) -> Sequence[RowMapping]:
    """Calls, tokens and dollars since a time, by task, prompt version, model, user or day.

    `hits` and `coalesced` are results that were served without a call, and `spared_usd` what their
    originals would have cost again. The dearest come first; days come in order. `unpriced` counts
    complete replies of models that the price list lacks: their cost is missing from the sum.
    """
    order = "1" if by == "day" else "cost_usd DESC, 1"
    statement = text(_TOTALS.format(key=_KEYS[by], order=order))
    return connection.execute(statement, {"since": since}).mappings().all()


_PROFILE = text("""
SELECT prompt, prompt_version, count(*) AS calls,
       percentile_disc(ARRAY[0.5, 0.95, 0.99, 1]) WITHIN GROUP (
           ORDER BY output_tokens - thinking_tokens) AS reply,
       percentile_disc(ARRAY[0.5, 0.95, 0.99, 1]) WITHIN GROUP (
           ORDER BY thinking_tokens) AS thinking,
       percentile_disc(ARRAY[0.5, 0.95, 0.99, 1]) WITHIN GROUP (
           ORDER BY output_tokens) AS output,
       avg((outcome = 'truncated')::int)::float AS truncated
FROM usage
WHERE created_at >= :since AND created_at < coalesce(cast(:until AS timestamptz), 'infinity')
  AND complete AND source <> 'cache'
GROUP BY 1, 2 ORDER BY 1, 2
""")


def profile(
    connection: Connection, since: datetime, until: datetime | None = None
) -> Sequence[RowMapping]:
    """Lengths of complete replies by prompt version: p50, p95, p99 and the longest, in tokens."""
    return connection.execute(_PROFILE, {"since": since, "until": until}).mappings().all()


_UNPRICED = text("""
SELECT id, model, input_tokens, cache_read_tokens, cache_write_5m_tokens,
       cache_write_1h_tokens, output_tokens, thinking_tokens, cost_usd, full_cost_usd, source,
       created_at
FROM usage
WHERE complete AND source <> 'cache' AND created_at >= :since AND id > :after
ORDER BY id LIMIT :limit
""")


def priced_rows(
    connection: Connection, since: datetime, *, after: int, limit: int
) -> Sequence[RowMapping]:
    """Complete calls in the order of their ids, for pricing them anew."""
    values = {"since": since, "after": after, "limit": limit}
    return connection.execute(_UNPRICED, values).mappings().all()


_REPRICE = text("""
UPDATE usage SET cost_usd = :cost_usd, full_cost_usd = :full_cost_usd, price_version = :version
WHERE id = :id
""")


def reprice(connection: Connection, prices: Sequence[dict[str, object]]) -> None:
    """Write new costs: `id`, `cost_usd`, `full_cost_usd` and `version` each."""
    if prices:
        connection.execute(_REPRICE, list(prices))
