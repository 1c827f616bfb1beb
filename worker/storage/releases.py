"""Prompt versions and their releases: what serves, since when, and what served before.

The newest release of a prompt counts. Releases are numbered in the order of their commits, so who
knows the newest number knows whether there is anything to learn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

#: The trigger of migration 0006 takes the same lock before a release gets its number.
_RELEASE_LOCK = 0x636C6A70

#: Releases are announced on this channel.
CHANNEL = "claude_jobs_releases"

Kind = Literal["release", "rollback", "automatic_rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRelease:
    """A release that is not in force yet.

    `weights` are percentages by version, `sha256` the content of each version; `restores` is the
    release whose allocation a rollback brings back.
    """

    prompt: str
    kind: Kind
    weights: dict[str, float]
    sha256: dict[str, str]
    allocation: Sequence[tuple[str, int, int]]
    released_by: str
    reason: str = ""
    restores: int | None = None
    forced: bool = False
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(NewRelease):
    """A row of `prompt_releases`."""

    id: int
    created_at: datetime


_COLUMNS = """id, prompt, kind, weights, sha256, allocation, released_by, reason, restores, forced,
       evidence, created_at"""


def lock(connection: Connection) -> None:
    """Keep everybody else from releasing until this transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _RELEASE_LOCK})


_NEWEST_ID = text("SELECT coalesce(max(id), 0) FROM prompt_releases")


def newest_id(connection: Connection) -> int:
    """The number of the newest release of any prompt; 0 when there is none."""
    return int(connection.execute(_NEWEST_ID).scalar_one())


_SERVING = text(f"""
SELECT DISTINCT ON (prompt) {_COLUMNS} FROM prompt_releases ORDER BY prompt, id DESC
""")  # noqa: S608 – built from a constant


def serving(connection: Connection) -> list[Release]:
    """The release that counts, for each prompt that has any."""
    return [_release(row) for row in connection.execute(_SERVING)]


_HISTORY = text(f"""
SELECT {_COLUMNS} FROM prompt_releases WHERE prompt = :prompt ORDER BY id DESC LIMIT :limit
""")  # noqa: S608


def history(connection: Connection, prompt: str, limit: int = 1_000) -> list[Release]:
    """The releases of a prompt, the newest first."""
    rows = connection.execute(_HISTORY, {"prompt": prompt, "limit": limit})
    return [_release(row) for row in rows]


_UNRELEASED = text("""
SELECT prompt_sha256 FROM usage WHERE prompt = :prompt AND variant = 'highest'
ORDER BY id DESC LIMIT 1
""")


def last_served_unreleased(connection: Connection, prompt: str) -> str | None:
    """The content that workers last chose by themselves, as nothing was released; None: never."""
    found: str | None = connection.execute(_UNRELEASED, {"prompt": prompt}).scalar_one_or_none()
    return found


_INSERT = text(f"""
INSERT INTO prompt_releases (prompt, kind, weights, sha256, allocation, released_by, reason,
                             restores, forced, evidence)
VALUES (:prompt, :kind, cast(:weights AS jsonb), cast(:sha256 AS jsonb),
        cast(:allocation AS jsonb), :released_by, :reason, :restores, :forced,
        cast(:evidence AS jsonb))
RETURNING {_COLUMNS}
""")  # noqa: S608


def insert(connection: Connection, new: NewRelease) -> Release:
    """Put a release in force with this transaction; `lock` first if it depends on what serves."""
    row = connection.execute(
        _INSERT,
        {
            "prompt": new.prompt,
            "kind": new.kind,
            "weights": json.dumps(new.weights),
            "sha256": json.dumps(new.sha256),
            "allocation": json.dumps(new.allocation),
            "released_by": new.released_by,
            "reason": new.reason,
            "restores": new.restores,
            "forced": new.forced,
            "evidence": json.dumps(new.evidence),
        },
    ).one()
    return _release(row)


def _release(row: Row[Any]) -> Release:
    return Release(**row._mapping)


_REGISTER = text("""
INSERT INTO prompt_versions (prompt, version, sha256, content)
VALUES (:prompt, :version, :sha256, cast(:content AS jsonb))
ON CONFLICT DO NOTHING
""")


def register_version(
    connection: Connection, prompt: str, version: str, sha256: str, content: str
) -> None:
    """Keep the content (JSON) of a prompt version, so that it can be served and shown anywhere."""
    values = {"prompt": prompt, "version": version, "sha256": sha256, "content": content}
    connection.execute(_REGISTER, values)


_VERSION = text("""
SELECT sha256, content FROM prompt_versions
WHERE prompt = :prompt AND version = :version AND starts_with(sha256, :sha256) LIMIT 2
""")


def find_versions(
    connection: Connection, prompt: str, version: str, sha256: str
) -> Sequence[tuple[str, dict[str, Any]]]:
    """Hash and content of the versions whose hash begins with `sha256`; two at the most."""
    values = {"prompt": prompt, "version": version, "sha256": sha256}
    return [(row.sha256, row.content) for row in connection.execute(_VERSION, values)]


_REGISTER_SCHEMA = text("""
INSERT INTO output_schemas (sha256, schema) VALUES (:sha256, :schema) ON CONFLICT DO NOTHING
""")


def register_schema(connection: Connection, sha256: str, schema: str) -> None:
    """Keep the schema of an output as it stands in system prompts."""
    connection.execute(_REGISTER_SCHEMA, {"sha256": sha256, "schema": schema})


_SCHEMA = text("SELECT schema FROM output_schemas WHERE sha256 = :sha256")


def find_schema(connection: Connection, sha256: str) -> str | None:
    """The schema with that hash."""
    found: str | None = connection.execute(_SCHEMA, {"sha256": sha256}).scalar_one_or_none()
    return found
