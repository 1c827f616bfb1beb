"""Looking at every call once after it has ended, and remembering the lengths of replies.

There is no cursor. Calls end in another order than they began, and become visible in another
order than they ended: a cursor over ids or times either misses some or waits for the oldest
transaction. Each usage row says itself whether it was looked at, and a partial index holds those
that were not; so a look costs as much as there is new, a call whose transaction stays open for an
hour is found when it commits, and a look that is rolled back never was. The mark costs a second
UPDATE of the row, by the alerts' loop and not by the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, text

#: One worker looks at a time, so that calls of a prompt version are taken in one order.
_INSPECTION_LOCK = 0x636C6A61

PromptVersion = tuple[str, str]


@dataclass(frozen=True, slots=True)
class EndedCall:
    """What is to be known of a call that ended; `unpriced`: the price list lacks its model."""

    id: int
    job_id: UUID | None
    task: str
    model: str
    prompt: str
    prompt_version: str
    prompt_sha256: str
    variant: str | None
    user_id: str | None
    attempt: int
    call: int
    outcome: str
    complete: bool
    output_tokens: int
    cost_usd: Decimal | None
    writes_cache: bool
    unpriced: bool


_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")


def try_lock(connection: Connection) -> bool:
    """Whether this transaction may look; until it ends, no other one may."""
    return bool(connection.execute(_TRY_LOCK, {"key": _INSPECTION_LOCK}).scalar_one())


# A call of a batch costs half, whatever its prompt says: it is compared at the price of the others.
# SKIP LOCKED: a row that is being repriced or pruned is looked at next time, nobody waits.
_TAKE = text("""
WITH ended AS (
    SELECT id FROM usage
    WHERE finished_at IS NOT NULL AND NOT inspected
    ORDER BY id
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
UPDATE usage SET inspected = true
FROM ended WHERE usage.id = ended.id
RETURNING usage.id, job_id, task, model, prompt, prompt_version, prompt_sha256, variant, user_id,
          attempt, call, outcome, complete, output_tokens,
          CASE source WHEN 'batch' THEN cost_usd * 2 ELSE cost_usd END AS cost_usd,
          cache_write_5m_tokens + cache_write_1h_tokens > 0 AS writes_cache,
          complete AND cost_usd IS NULL AS unpriced
""")


def take_ended_calls(connection: Connection, limit: int) -> list[EndedCall]:
    """Up to `limit` calls that ended and were not looked at yet, in the order of their ids.

    They count as looked at once this transaction commits.
    """
    calls = [EndedCall(*row) for row in connection.execute(_TAKE, {"limit": limit})]
    return sorted(calls, key=lambda call: call.id)


@dataclass(frozen=True, slots=True)
class Lengths:
    """What is stored of a prompt version's replies; see `worker.engine.drift.History`."""

    reference: list[int]
    recent: list[int]
    calls: int


_LENGTHS = text("""
SELECT prompt, prompt_version, reference, recent, calls
FROM reply_lengths
JOIN unnest(cast(:prompts AS text[]), cast(:versions AS text[])) AS wanted (prompt, prompt_version)
     USING (prompt, prompt_version)
""")


def stored_lengths(
    connection: Connection, versions: Sequence[PromptVersion]
) -> dict[PromptVersion, Lengths]:
    """What is remembered of these prompt versions; those that are new are missing."""
    values = {"prompts": [p for p, _ in versions], "versions": [v for _, v in versions]}
    rows = connection.execute(_LENGTHS, values)
    return {(row[0], row[1]): Lengths(*row[2:]) for row in rows}


_STORE = text("""
INSERT INTO reply_lengths (prompt, prompt_version, reference, recent, calls)
VALUES (:prompt, :prompt_version, :reference, :recent, :calls)
ON CONFLICT (prompt, prompt_version) DO UPDATE
SET reference = excluded.reference, recent = excluded.recent, calls = excluded.calls,
    seen_at = now()
""")


def store_lengths(connection: Connection, lengths: Mapping[PromptVersion, Lengths]) -> None:
    """Remember these prompt versions' replies for the next look."""
    rows = [
        {
            "prompt": prompt,
            "prompt_version": version,
            "reference": stored.reference,
            "recent": stored.recent,
            "calls": stored.calls,
        }
        for (prompt, version), stored in lengths.items()
    ]
    if rows:
        connection.execute(_STORE, rows)
