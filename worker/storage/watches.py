"""The last replies of each prompt version, and the releases that are watched.

Written by the alerts' loop only, in the transaction that marks calls as looked at: a worker that
dies has counted nothing, and the next one counts it all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

Ended = Literal["passed", "superseded", "rolled_back", "shared"]


@dataclass(frozen=True, slots=True)
class RecentReplies:
    """A version's newest first replies, the oldest first: four lists of the same length."""

    prompt: str
    version: str
    sha256: str
    outcomes: list[str]
    tokens: list[int]
    costs: list[int | None]
    users: list[int | None]


# A slice that begins before the first element begins with it.
_NEWEST = "[cardinality(kept.tokens) + cardinality(excluded.tokens) - cast(:most AS integer) + 1:]"

_APPEND = text(f"""
INSERT INTO recent_replies AS kept
    (prompt, prompt_version, prompt_sha256, outcomes, tokens, costs, users)
VALUES (:prompt, :version, :sha256, cast(:outcomes AS text[]), cast(:tokens AS integer[]),
        cast(:costs AS bigint[]), cast(:users AS bigint[]))
ON CONFLICT (prompt, prompt_version, prompt_sha256) DO UPDATE
SET outcomes = (kept.outcomes || excluded.outcomes){_NEWEST},
    tokens = (kept.tokens || excluded.tokens){_NEWEST},
    costs = (kept.costs || excluded.costs){_NEWEST},
    users = (kept.users || excluded.users){_NEWEST},
    seen_at = now()
""")  # noqa: S608 – built from the constant above


def append_replies(connection: Connection, replies: Sequence[RecentReplies], *, most: int) -> None:
    """Add replies to those that are kept of their versions; the newest `most` stay."""
    rows = [
        {
            "prompt": each.prompt,
            "version": each.version,
            "sha256": each.sha256,
            "outcomes": each.outcomes[-most:],
            "tokens": each.tokens[-most:],
            "costs": each.costs[-most:],
            "users": each.users[-most:],
            "most": most,
        }
        for each in replies
    ]
    if rows:
        connection.execute(_APPEND, rows)


_RECENT = text("""
SELECT prompt, prompt_version, prompt_sha256, outcomes, tokens, costs, users
FROM recent_replies WHERE prompt = :prompt ORDER BY seen_at DESC
""")


def recent_replies(connection: Connection, prompt: str) -> list[RecentReplies]:
    """What is kept of a prompt's versions; the one that was seen last comes first."""
    return [RecentReplies(*row) for row in connection.execute(_RECENT, {"prompt": prompt})]


# 401 and 403 are about the key. A spend limit is no error of the job's.
_REJECTED = text("""
SELECT id FROM jobs
WHERE id = ANY(:ids) AND state = 'failed' AND error ->> 'status' IN ('400', '404', '413', '422')
""")


def rejected_jobs(connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Those of the jobs that failed because the API did not take their request."""
    return set(connection.execute(_REJECTED, {"ids": list(ids)}).scalars())


# A rollback is not watched: nothing is gained by going back and forth.
_UNWATCHED = text("""
SELECT prompt FROM (
    SELECT DISTINCT ON (prompt) prompt, id, kind, created_at
    FROM prompt_releases ORDER BY prompt, id DESC
) AS newest
WHERE kind = 'release' AND created_at > now() - make_interval(secs => :within)
  AND NOT EXISTS (SELECT FROM release_watches WHERE release_id = newest.id)
ORDER BY id
""")


def unwatched_prompts(connection: Connection, *, within: float) -> list[str]:
    """Prompts whose newest release was made in the last `within` seconds, and has no watch yet."""
    return list(connection.execute(_UNWATCHED, {"within": within}).scalars())


@dataclass(frozen=True, slots=True)
class StoredWatch:
    """A watch as it is stored: `versions` are the new ones, with their hashes."""

    release_id: int
    prompt: str
    versions: dict[str, str]
    baseline: dict[str, Any]
    limits: dict[str, Any]
    progress: dict[str, Any]
    seconds: float
    is_newest: bool


_BEGIN = text("""
INSERT INTO release_watches (release_id, prompt, state, versions, baseline, limits, ended_at)
VALUES (:release_id, :prompt, :state, cast(:versions AS jsonb), cast(:baseline AS jsonb),
        cast(:limits AS jsonb), CASE WHEN :state <> 'watching' THEN now() END)
ON CONFLICT (release_id) DO NOTHING
""")


def begin_watch(
    connection: Connection,
    release_id: int,
    prompt: str,
    *,
    versions: Mapping[str, str],
    baseline: Mapping[str, Any],
    limits: Mapping[str, Any],
) -> None:
    """Watch a release from now on; one without new `versions` has passed already."""
    values = {
        "release_id": release_id,
        "prompt": prompt,
        "state": "watching" if versions else "passed",
        "versions": json.dumps(dict(versions)),
        "baseline": json.dumps(dict(baseline)),
        "limits": json.dumps(dict(limits)),
    }
    connection.execute(_BEGIN, values)


_WATCHING = text("""
SELECT release_id, prompt, versions, baseline, limits, progress,
       extract(epoch FROM now() - started_at)::float AS seconds,
       NOT EXISTS (SELECT FROM prompt_releases AS later
                   WHERE later.prompt = watch.prompt AND later.id > watch.release_id)
FROM release_watches AS watch WHERE state = 'watching' ORDER BY release_id
""")


def watching(connection: Connection) -> list[StoredWatch]:
    """The watches that go on."""
    return [StoredWatch(*row) for row in connection.execute(_WATCHING)]


_SAVE = text("""
UPDATE release_watches
SET progress = cast(:progress AS jsonb), calls = :calls, looked_at = now()
WHERE release_id = :release_id
""")


def save_progress(
    connection: Connection, release_id: int, progress: Mapping[str, Any], calls: int
) -> None:
    """Keep what a watch has counted."""
    values = {"release_id": release_id, "progress": json.dumps(dict(progress)), "calls": calls}
    connection.execute(_SAVE, values)


_END = text("""
UPDATE release_watches SET state = :state, ended_at = now()
WHERE release_id = :release_id AND state = 'watching'
""")


def end_watch(connection: Connection, release_id: int, state: Ended) -> None:
    """Watch a release no longer."""
    connection.execute(_END, {"release_id": release_id, "state": state})


_LIST = text("""
SELECT release_id, prompt, state, versions, baseline, limits, progress, calls, started_at,
       looked_at, ended_at
FROM release_watches ORDER BY release_id DESC LIMIT :limit
""")


def list_watches(connection: Connection, *, limit: int) -> Sequence[RowMapping]:
    """Watches that go on and that have ended, the newest first."""
    return connection.execute(_LIST, {"limit": limit}).mappings().all()
