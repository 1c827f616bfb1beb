"""Runs of prompts' cases: kept for whoever decides about a release."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text


@dataclass(frozen=True, slots=True)
class NewRun:
    """A finished run; `report` is JSON text, `cost_usd` None when a call's price is unknown."""

    prompt: str
    version: str
    prompt_sha256: str
    mode: str
    passed: bool
    cases: int
    failures: int
    skipped: int
    cost_usd: Decimal | None
    cases_sha256: str
    report: str
    run_by: str


_INSERT = text("""
INSERT INTO prompt_test_runs (prompt, version, prompt_sha256, mode, passed, cases, failures,
                              skipped, cost_usd, cases_sha256, report, run_by)
VALUES (:prompt, :version, :prompt_sha256, :mode, :passed, :cases, :failures,
        :skipped, :cost_usd, :cases_sha256, cast(:report AS jsonb), :run_by)
RETURNING id
""")


def insert_run(connection: Connection, run: NewRun) -> UUID:
    """Keep a run; returns its id."""
    return connection.execute(_INSERT, asdict(run)).scalar_one()  # type: ignore[no-any-return]


_LATEST = text("""
SELECT * FROM prompt_test_runs
WHERE prompt = :prompt AND prompt_sha256 = :sha256 AND (mode = 'live' OR NOT :live)
ORDER BY created_at DESC LIMIT 1
""")


def latest_run(
    connection: Connection, prompt: str, sha256: str, *, live: bool = False
) -> RowMapping | None:
    """The last run of a prompt version with exactly this content, passed or not.

    `live`: the last one that asked Claude.
    """
    values = {"prompt": prompt, "sha256": sha256, "live": live}
    return connection.execute(_LATEST, values).mappings().one_or_none()
