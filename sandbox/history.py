"""Four weeks of usage that never happened, to look at the weekly review with.

`DATABASE_URL=… python -m sandbox.history` fills a migrated database without usage; then
`claude-jobs report --weekly --html review.html`. Weekends are quiet, one prompt release made
replies cheaper, and one, on the Tuesday of the last week, doubled their length.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from sandbox.traffic import KINDS, TUESDAY, WEDNESDAY, Kind, Version
from worker.claude.pricing import cost_usd, full_cost_usd
from worker.claude.reply import Tokens
from worker.errors import ClaudeJobsError
from worker.storage.engine import transaction
from worker.storage.schema import require_head

WEEKS = 4
_SYSTEM_TOKENS = 1800


_USAGE = text("""
INSERT INTO usage (job_id, task, user_id, service, attempt, call, outcome, model, prompt,
    prompt_version, prompt_sha256, input_tokens, cache_read_tokens, cache_write_5m_tokens,
    output_tokens, cost_usd, full_cost_usd, stop_reason, complete, inspected, created_at,
    finished_at, source, coalesced)
SELECT job_id, task, user_id, service, 1, call, outcome, model, task, version, 'sample', input,
    cache_read, cache_write, output, cost, "full", stop, outcome <> 'api_error', true, at, at,
    source, coalesced
FROM jsonb_to_recordset(cast(:rows AS jsonb)) AS row (job_id uuid, task text, user_id text,
    service text, call int, outcome text, model text, version text, input int, cache_read int,
    cache_write int, output int, cost numeric, "full" numeric, stop text, at timestamptz,
    source text, coalesced boolean)
ORDER BY at
""")
_JOB = text("""
INSERT INTO jobs (id, task, input, state, user_id, service, created_at, finished_at)
SELECT job_id, task, '{}', state, user_id, service, at, at
FROM jsonb_to_recordset(cast(:rows AS jsonb)) AS row (job_id uuid, task text, state text,
    user_id text, service text, at timestamptz)
""")
_RELEASE = text("""
INSERT INTO prompt_releases (prompt, kind, weights, sha256, allocation, released_by, reason,
                             created_at)
VALUES (:prompt, 'release', jsonb_build_object(cast(:version AS text), 100), '{}',
        jsonb_build_array(jsonb_build_array(cast(:version AS text), 0, 10000)), :by, :reason, :at)
""")
_ALERT = text("""
INSERT INTO alerts (kind, subject, message, details, count, first_at, last_at, next_delivery_at)
VALUES (:kind, :subject, :message, '{}', :count, :at, :at, NULL)
""")
_VERSION = text("""
INSERT INTO prompt_versions (prompt, version, sha256, content)
VALUES (:prompt, :version, 'sample', cast(:content AS jsonb)) ON CONFLICT DO NOTHING
""")


def fill(connection: Connection, last_monday: date, *, scale: float = 1.0, seed: int = 7) -> int:
    """Write four weeks, of which `last_monday` begins the last; returns how many calls and hits."""
    chance = random.Random(seed)
    first = datetime.combine(last_monday - timedelta(weeks=WEEKS - 1), time(), UTC)
    usage: list[dict[str, Any]] = []
    jobs = []
    for kind in KINDS:
        for version in kind.since.values():
            content = json.dumps({"max_tokens": version.max_tokens})
            values = {"prompt": kind.task, "version": version.version, "content": content}
            connection.execute(_VERSION, values)
        for job in _jobs(kind, first, scale, chance):
            jobs.append(job[0])
            usage += job
    ended = [{**job, "state": _state(job)} for job in jobs]
    for statement, rows in ((_JOB, ended), (_USAGE, usage)):
        connection.execute(statement, {"rows": json.dumps(rows, default=str)})
    _release(connection, first)
    return len(usage)


def _jobs(
    kind: Kind, first: datetime, scale: float, chance: random.Random
) -> Iterator[list[dict[str, Any]]]:
    for day in range(7 * WEEKS):
        quiet = 0.25 if day % 7 >= 5 else 1.0
        count = kind.jobs * kind.growth ** (day / 7) * quiet * scale * chance.uniform(0.85, 1.15)
        for _ in range(round(count)):
            age = timedelta(days=day, hours=min(max(chance.gauss(13, 3.5), 0), 23.9))
            yield _job(kind, kind.serving(age), first + age, chance)


def _job(kind: Kind, version: Version, at: datetime, chance: random.Random) -> list[dict[str, Any]]:
    """The rows of a job's calls, or of its hit."""
    common = {
        "job_id": UUID(int=chance.getrandbits(128), version=4),
        "task": kind.task,
        "version": version.version,
        "model": version.model,
        "user_id": _user(chance),
        "service": chance.choice(("shop", "mail", None)),
        "at": at,
        "coalesced": False,
    }
    length = chance.lognormvariate(0, 0.35)
    tokens = Tokens(
        input=round(version.input_tokens * chance.lognormvariate(0, 0.3)),
        output=min(round(version.output_tokens * length), version.max_tokens),
    )
    if chance.random() < kind.cached:
        full = full_cost_usd(version.model, tokens, at=at)
        hit = _row(1, Tokens(), "ok", Decimal(0), full, "cache", None)
        return [common | hit | {"coalesced": chance.random() < 0.25}]
    batch = chance.random() < kind.batch
    if kind.prompt_cache:
        read = chance.random() < 0.8
        tokens = Tokens(
            input=tokens.input,
            output=tokens.output,
            cache_read=_SYSTEM_TOKENS if read else 0,
            cache_write_5m=0 if read else _SYSTEM_TOKENS,
        )
    luck = chance.random()
    outcome = "ok"
    if luck < version.truncated:
        outcome = "truncated"
    elif luck < version.truncated + version.invalid:
        outcome = "invalid_output"
    outcomes = [outcome] if outcome == "ok" else [outcome, "ok"]
    if luck > 0.997:
        outcomes = ["api_error"]
    return [
        common | _call(number, version.model, tokens, each, at, batch=batch)
        for number, each in enumerate(outcomes, start=1)
    ]


def _call(
    number: int, model: str, tokens: Tokens, outcome: str, at: datetime, *, batch: bool
) -> dict[str, Any]:
    if outcome == "api_error":
        return _row(number, Tokens(), outcome, None, None, "api", None)
    cost = cost_usd(model, tokens, batch=batch, at=at)
    full = full_cost_usd(model, tokens, at=at)
    stop = "max_tokens" if outcome == "truncated" else "end_turn"
    return _row(number, tokens, outcome, cost, full, "batch" if batch else "api", stop)


def _row(
    call: int,
    tokens: Tokens,
    outcome: str,
    cost: Decimal | None,
    full: Decimal | None,
    source: str,
    stop: str | None,
) -> dict[str, Any]:
    return {
        "call": call,
        "outcome": outcome,
        "input": tokens.input,
        "cache_read": tokens.cache_read,
        "cache_write": tokens.cache_write_5m,
        "output": tokens.output,
        "cost": cost,
        "full": full,
        "source": source,
        "stop": stop,
    }


def _state(job: dict[str, Any]) -> str:
    return "failed" if job["outcome"] == "api_error" else "succeeded"


def _user(chance: random.Random) -> str | None:
    number = int(chance.paretovariate(0.9))
    return f"user-{number}" if number < 200 else None


def _release(connection: Connection, first: datetime) -> None:
    better, worse = (first + timedelta(weeks=week) for week in (1 + WEDNESDAY / 7, 3 + TUESDAY / 7))
    connection.execute(
        _RELEASE,
        [
            {"prompt": "summarize_text", "version": "1.2", "by": "ana", "reason": "", "at": first},
            {"prompt": "classify_ticket", "version": "1.0", "by": "ben", "reason": "", "at": first},
            {
                "prompt": "classify_ticket",
                "version": "1.1",
                "by": "ben",
                "reason": "half the instructions, same answers",
                "at": better,
            },
            {
                "prompt": "summarize_text",
                "version": "1.3",
                "by": "ana",
                "reason": "quote the passage behind every key point",
                "at": worse,
            },
        ],
    )
    connection.execute(
        _ALERT,
        {
            "kind": "length_drift",
            "subject": "summarize_text/1.3",
            "message": "replies are 2.0 times as long as they used to be: compare "
            "`claude-jobs usage profile`, and see whether the inputs or the model changed",
            "count": 1,
            "at": worse + timedelta(hours=5),
        },
    )


def main() -> None:
    """Fill the database that the environment names, if it has no usage."""
    today = datetime.now(UTC).date()
    last_monday = today - timedelta(days=today.weekday() + 7)
    try:
        with transaction() as connection:
            require_head(connection)
            if connection.execute(text("SELECT EXISTS (SELECT FROM usage)")).scalar_one():
                raise SystemExit("this database has usage of its own: take an empty one")
            count = fill(connection, last_monday)
    except ClaudeJobsError as error:
        raise SystemExit(str(error)) from None
    print(f"{count:,} calls and cache hits in the four weeks before {last_monday + timedelta(7)}")


if __name__ == "__main__":
    main()
