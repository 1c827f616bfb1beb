"""The relay's statements: due rows become messages, and what could not be sent comes back.

Queued jobs are read group by group – one task, model and priority – through an index in that
order, so that what a group must not send (its model's limit is used up, its task is paused) is not
even looked at, and the cost does not grow with what waits behind. No statement here sees jobs that
wait for an identical request (`waits_for`), nor those of the batch lane, which `worker.batches`
gathers: they are in other indexes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.storage.rescue import MAX_RESCUES
from worker.storage.statement import Statement

#: Dispatching is serialised over the fleet, so that every bound on it is exact.
_DISPATCH_LOCK = 0x636C6A72

#: Users of a group that one look goes through.
MOST_USERS = 200


class Group(NamedTuple):
    """Jobs of one task, one model ('' = the task's own) and one priority."""

    task: str
    model: str
    priority: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A due job that may be dispatched."""

    id: UUID
    group: Group
    run_at: datetime
    user_id: str | None
    suspect: bool


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What the message of a job says about it."""

    id: UUID
    task: str
    prompt_version: str | None
    user_id: str | None
    model: str | None
    attempt: int


class BudgetRoom(NamedTuple):
    """What a hard budget leaves, in US dollars; `mean`: what its calls have cost on average."""

    scope: str
    subject: str
    held: bool
    left: float
    mean: float | None


@dataclass(frozen=True, slots=True)
class Survey:
    """What is queued, what is on its way, and what is held.

    `waiting` counts the dispatched jobs by task and model; `live` all that are dispatched or
    running, by task and by user – where it was asked for. `suspect_in_flight`: a job that has used
    up its rescues is out there. `budgets` has the hard ones; of users', of which there may be many,
    those that have refused a call and hold.
    """

    groups: list[Group]
    waiting: dict[tuple[str, str], int]
    paused: set[tuple[str, str]]
    suspect_in_flight: bool
    live_tasks: dict[str, int] = field(default_factory=dict)
    live_users: dict[str, int] = field(default_factory=dict)
    budgets: list[BudgetRoom] = field(default_factory=list)


_LOCK = Statement("SELECT pg_advisory_xact_lock(:dispatching)")

_LIVE = """
(SELECT json_object_agg({key}, jobs) FROM (
    SELECT {key}, count(*) AS jobs FROM (
        SELECT {key} FROM jobs WHERE state = 'dispatched'
        UNION ALL SELECT {key} FROM jobs WHERE state = 'running' AND lane = 'interactive') AS live
    WHERE {key} IS NOT NULL GROUP BY 1) AS counted)
"""

# The groups by a loose index scan: from each straight to the next, however many jobs it has.
_SURVEY = Statement(f"""
WITH RECURSIVE queued AS (
    (SELECT task, coalesce(model, '') AS model, priority FROM jobs
     WHERE state = 'queued' AND lane = 'interactive' AND waits_for IS NULL
     ORDER BY task, coalesce(model, ''), priority LIMIT 1)
    UNION ALL
    SELECT later.* FROM queued CROSS JOIN LATERAL (
        SELECT task, coalesce(model, ''), priority FROM jobs
        WHERE state = 'queued' AND lane = 'interactive' AND waits_for IS NULL
          AND (task, coalesce(model, ''), priority)
            > (queued.task, queued.model, queued.priority)
        ORDER BY task, coalesce(model, ''), priority LIMIT 1) AS later
), waiting AS (
    SELECT task, coalesce(model, '') AS model, count(*) AS jobs FROM jobs
    WHERE state = 'dispatched' GROUP BY 1, 2
)
SELECT (SELECT json_agg(json_build_array(task, model, priority)) FROM queued),
       (SELECT json_agg(json_build_array(task, model, jobs)) FROM waiting),
       (SELECT json_agg(json_build_array(scope, name)) FROM pauses),
       EXISTS (SELECT FROM jobs WHERE state = 'dispatched' AND rescues >= :suspect)
           OR EXISTS (SELECT FROM jobs WHERE state = 'running' AND lane = 'interactive'
                      AND rescues >= :suspect),
       CASE WHEN :count_tasks THEN {_LIVE.format(key="task")} END,
       CASE WHEN :count_users THEN {_LIVE.format(key="user_id")} END,
       (SELECT json_agg(json_build_array(scope, subject, held, left_usd,
                                         (spent_usd + reserved_usd) / nullif(calls, 0)))
        FROM (SELECT * FROM budget_status WHERE scope <> 'user'
              UNION ALL
              SELECT * FROM budget_status
              WHERE scope = 'user' AND needed_usd IS NOT NULL AND held) AS telling
        WHERE hard AND lane IS DISTINCT FROM 'batch')
""")  # noqa: S608 – built from the constant above


def survey(
    connection: Connection, *, count_tasks: bool = False, count_users: bool = False
) -> Survey:
    """Look at everything that decides what may be dispatched, and let nobody else dispatch.

    All other relays wait until this transaction ends.
    """
    wanted = {
        "dispatching": _DISPATCH_LOCK,
        "suspect": MAX_RESCUES,
        "count_tasks": count_tasks,
        "count_users": count_users,
    }
    row = _SURVEY.row_after(_LOCK, connection, wanted)
    assert row is not None  # noqa: S101 – of scalars there is always one
    groups, waiting, paused, suspect_in_flight, live_tasks, live_users, budgets = row
    return Survey(
        groups=[Group(*group) for group in groups or ()],
        waiting={(task, model): jobs for task, model, jobs in waiting or ()},
        paused={(scope, name) for scope, name in paused or ()},
        suspect_in_flight=suspect_in_flight,
        live_tasks=live_tasks or {},
        live_users=live_users or {},
        budgets=[BudgetRoom(*each) for each in budgets or ()],
    )


_WANTED = """
SELECT due.id, due.task, coalesce(due.model, '') AS model, due.priority, due.run_at,
       due.user_id, due.rescues >= :suspect AS suspect
FROM unnest(cast(:tasks AS text[]), cast(:models AS text[]), cast(:priorities AS smallint[]),
            cast(:limits AS integer[])) AS wanted (task, model, priority, most)
"""

_IN_GROUP = """state = 'queued' AND lane = 'interactive' AND waits_for IS NULL
      AND task = wanted.task AND coalesce(model, '') = wanted.model
      AND priority = wanted.priority"""

_ALLOWED = """run_at <= now() AND (rescues < :suspect OR :suspects_too)
      AND id <> ALL(cast(:not_these AS uuid[]))"""

_CANDIDATES = text(f"""{_WANTED}
CROSS JOIN LATERAL (
    SELECT * FROM jobs WHERE {_IN_GROUP} AND {_ALLOWED} ORDER BY run_at LIMIT wanted.most
) AS due
""")  # noqa: S608 – built from the constants above

# From each user straight to the next: how many jobs one has queued makes no difference.
_CANDIDATES_BY_USER = text(f"""{_WANTED}
CROSS JOIN LATERAL (
    WITH RECURSIVE users AS (
        (SELECT coalesce(user_id, '') AS name FROM jobs
         WHERE {_IN_GROUP} AND coalesce(user_id, '') > :after
         ORDER BY coalesce(user_id, '') LIMIT 1)
        UNION ALL
        SELECT later.name FROM users CROSS JOIN LATERAL (
            SELECT coalesce(user_id, '') AS name FROM jobs
            WHERE {_IN_GROUP} AND coalesce(user_id, '') > users.name
            ORDER BY coalesce(user_id, '') LIMIT 1) AS later
    )
    SELECT name FROM users LIMIT {MOST_USERS}
) AS users
CROSS JOIN LATERAL (
    SELECT * FROM jobs
    WHERE {_IN_GROUP} AND coalesce(user_id, '') = users.name AND {_ALLOWED}
    ORDER BY run_at LIMIT least(wanted.most, :each)
) AS due
WHERE users.name <> ALL(cast(:not_of AS text[]))
UNION ALL {_WANTED}
CROSS JOIN LATERAL (
    SELECT * FROM jobs
    WHERE {_IN_GROUP} AND coalesce(user_id, '') = '' AND {_ALLOWED}
    ORDER BY run_at LIMIT wanted.most
) AS due
""")  # noqa: S608


def candidates(
    connection: Connection,
    limits: dict[Group, int],
    *,
    suspects_too: bool,
    not_these: Collection[UUID] = (),
) -> list[Candidate]:
    """The due jobs of each group that come first, up to its limit."""
    values = _values(limits, suspects_too=suspects_too, not_these=not_these)
    return _read(connection.execute(_CANDIDATES, values))


def candidates_by_user(
    connection: Connection,
    limits: dict[Group, int],
    *,
    suspects_too: bool,
    not_these: Collection[UUID] = (),
    not_of: Collection[str] = (),
    each: int,
    after: str,
) -> list[Candidate]:
    """The same, with no more than `each` jobs of a user.

    At most `MOST_USERS` users of a group are looked at, in the order of their ids from the one
    `after` which the last look ended; users in `not_of` may have no more jobs.
    """
    values = _values(limits, suspects_too=suspects_too, not_these=not_these)
    values |= {"not_of": list(not_of), "each": each, "after": after}
    return _read(connection.execute(_CANDIDATES_BY_USER, values))


def _values(
    limits: dict[Group, int], *, suspects_too: bool, not_these: Collection[UUID]
) -> dict[str, object]:
    return {
        "tasks": [group.task for group in limits],
        "models": [group.model for group in limits],
        "priorities": [group.priority for group in limits],
        "limits": list(limits.values()),
        "suspect": MAX_RESCUES,
        "suspects_too": suspects_too,
        "not_these": list(not_these),
    }


def _read(rows: Iterable[Row[Any]]) -> list[Candidate]:
    return [
        Candidate(
            row.id, Group(row.task, row.model, row.priority), row.run_at, row.user_id, row.suspect
        )
        for row in rows
    ]


_MARK = text("""
UPDATE jobs SET state = 'dispatched', dispatched_at = now()
FROM (
    SELECT id FROM jobs WHERE id = ANY(:ids) AND state = 'queued' AND waits_for IS NULL
    FOR UPDATE SKIP LOCKED
) AS due
WHERE jobs.id = due.id
RETURNING jobs.id, jobs.task, jobs.prompt_version, jobs.user_id, jobs.model, jobs.attempt
""")


def mark(connection: Connection, ids: Sequence[UUID]) -> list[Dispatched]:
    """Mark queued jobs as dispatched, and return those that were, in the order given.

    Left out is what somebody else has changed or locked in the meantime. The messages are to be
    published after the commit: one that arrives before its row says so would be dropped.
    """
    rows = {row.id: row for row in connection.execute(_MARK, {"ids": list(ids)})}
    return [Dispatched(*rows[job_id]) for job_id in ids if job_id in rows]


_RECALL = text("""
UPDATE jobs SET state = 'queued', dispatched_at = NULL
WHERE id = ANY(:ids) AND state = 'dispatched'
""")


def recall(connection: Connection, ids: Sequence[UUID]) -> int:
    """Put dispatched jobs back whose message could not be published; returns how many."""
    return connection.execute(_RECALL, {"ids": list(ids)}).rowcount
