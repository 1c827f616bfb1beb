"""Who makes a request in a Message Batch, and who waits for it: `leaders`, for many jobs at a time.

A batch may take a day, and no interactive job may wait that long. So the lane leads under keys of
its own, which are derived from the requests' and which only its jobs look at. They look at the
others' as well: a job of the lane may well wait for an interactive one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.storage.claim import Claim
from worker.storage.leaders import Leader, Servable

_LANE = "batch:"


def lane_key(request: str) -> str:
    """The key under which the lane leads and waits for a request."""
    return _LANE + request


def is_lane_key(key: str) -> bool:
    """Whether only jobs of the lane lead and wait under this key."""
    return key.startswith(_LANE)


def request_of(key: str) -> str:
    """The request's key, under which results are stored, whichever lane made it."""
    return key.removeprefix(_LANE)


class Entering(NamedTuple):
    """A claim of the lane, and its request; a result is servable for so many seconds."""

    claim: Claim
    request: str
    window: float


@dataclass(frozen=True, slots=True)
class LaneStanding:
    """How a request stands, seen after the claim tried to lead it in the lane.

    `held`: the claim is still ours. `interactive` is who makes it outside of batches just now.
    """

    held: bool
    servable: Servable | None
    interactive: Leader | None
    leader: Leader | None


# In the order of keys, as everybody who inserts several: nobody waits in a circle.
_LEAD = text("""
INSERT INTO request_leaders (request_sha256, job_id, claim_token)
SELECT DISTINCT ON (key) key, id, token
FROM unnest(cast(:keys AS text[]), cast(:ids AS uuid[]), cast(:tokens AS uuid[]))
  WITH ORDINALITY AS entering (key, id, token, place)
ORDER BY key, place
ON CONFLICT (request_sha256) DO NOTHING
""")

# A later snapshot than the INSERT's, for the reason that `leaders` gives.
_LOOK = text("""
SELECT entering.id,
       EXISTS (SELECT FROM jobs WHERE id = entering.id AND claim_token = entering.token
                 AND state = 'running') AS held,
       servable.job_id AS source, servable.output, servable.model,
       ahead.job_id AS ahead, ahead.claim_token AS ahead_token, caller.id IS NOT NULL AS calling,
       leader.job_id AS leader, leader.claim_token AS leader_token, job.id IS NOT NULL AS alive
FROM unnest(cast(:ids AS uuid[]), cast(:tokens AS uuid[]), cast(:requests AS text[]),
            cast(:keys AS text[]), cast(:windows AS float[]))
  AS entering (id, token, request, key, seconds)
LEFT JOIN LATERAL (
    SELECT job_id, output::text AS output, model FROM results
    WHERE request_sha256 = entering.request
      AND created_at > now() - make_interval(secs => entering.seconds)
    ORDER BY created_at DESC LIMIT 1) AS servable ON true
LEFT JOIN request_leaders AS ahead ON ahead.request_sha256 = entering.request
LEFT JOIN jobs AS caller ON caller.id = ahead.job_id
    AND caller.claim_token = ahead.claim_token AND caller.state = 'running'
LEFT JOIN request_leaders AS leader ON leader.request_sha256 = entering.key
LEFT JOIN jobs AS job ON job.id = leader.job_id
    AND job.claim_token = leader.claim_token AND job.state = 'running'
""")


def enter(connection: Connection, entering: Sequence[Entering]) -> dict[UUID, LaneStanding]:
    """Lead these requests in the lane unless somebody does; returns how each job's stands.

    Of jobs with the same request the first one leads. The connection is to commit each statement.
    """
    values = {
        "ids": [each.claim.id for each in entering],
        "tokens": [each.claim.token for each in entering],
        "requests": [each.request for each in entering],
        "keys": [lane_key(each.request) for each in entering],
        "windows": [each.window for each in entering],
    }
    leading = {name: values[name] for name in ("keys", "ids", "tokens")}
    connection.execute(_LEAD, leading)
    return {row.id: _standing(row) for row in connection.execute(_LOOK, values)}


def _standing(row: Row[tuple[object, ...]]) -> LaneStanding:
    return LaneStanding(
        held=row.held,
        servable=Servable(row.source, row.output, row.model) if row.source else None,
        interactive=Leader(row.ahead, row.ahead_token, alive=True) if row.calling else None,
        leader=Leader(row.leader, row.leader_token, row.alive) if row.leader else None,
    )
