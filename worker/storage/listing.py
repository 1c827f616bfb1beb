"""Jobs as producers see them: one by id, many page by page, a service's or anybody's.

Pages are cut by key, not by offset: the next one begins after the last row of this one, however
many jobs came or went meanwhile, and costs the same however far down it is.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from worker.errors import InvalidInput
from worker.storage.budgets import HOLDING


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a list that is ordered by time and id: right after this job."""

    created_at: datetime
    id: UUID

    def as_cursor(self) -> str:
        """The position as opaque text that may stand in a URL."""
        return urlsafe_b64encode(f"{self.created_at.isoformat()} {self.id}".encode()).decode()

    @classmethod
    def from_cursor(cls, cursor: str) -> Position:
        """The position that `as_cursor` wrote down.

        Raises:
            InvalidInput: it is none.
        """
        try:
            time, _, job_id = urlsafe_b64decode(cursor.encode()).decode().partition(" ")
            position = cls(datetime.fromisoformat(time), UUID(job_id))
        except ValueError:
            position = None
        if position is None or position.created_at.tzinfo is None:
            raise InvalidInput(
                "cursor: not one that was given out; leave it away to begin with the newest job"
            )
        return position


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, the newest first; `next` is where the next page begins, None after the last one."""

    jobs: Sequence[RowMapping]
    next: Position | None


_JOBS = """
SELECT jobs.id, jobs.task, jobs.state, jobs.priority, jobs.user_id, jobs.idempotency_key,
       coalesce(results.prompt_version, jobs.prompt_version) AS prompt_version,
       coalesce(results.model, jobs.model) AS model, jobs.attempt, jobs.max_attempts, jobs.stream,
       jobs.created_at, jobs.started_at, jobs.finished_at, jobs.error, results.output,
       spent.calls, spent.input_tokens, spent.output_tokens, spent.cost_usd,
       held.label AS held_by, held.ends_at AS held_until
FROM ({chosen}) AS jobs
LEFT JOIN results ON results.job_id = jobs.id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE source <> 'cache') AS calls,
           coalesce(sum(input_tokens + cache_read_tokens + cache_write_5m_tokens
                        + cache_write_1h_tokens), 0) AS input_tokens,
           coalesce(sum(output_tokens), 0) AS output_tokens,
           coalesce(sum(cost_usd), 0) AS cost_usd
    FROM usage WHERE usage.job_id = jobs.id
) AS spent
LEFT JOIN LATERAL (
    SELECT label, ends_at FROM {holding}
    WHERE jobs.state = 'queued' ORDER BY ends_at DESC, id LIMIT 1
) AS held ON true
ORDER BY jobs.created_at DESC, jobs.id DESC
"""
_HOLDING = HOLDING.format(job="jobs")

_ONE = text(
    _JOBS.format(
        chosen="""
        SELECT * FROM jobs
        WHERE id = :id AND (cast(:service AS text) IS NULL OR service = :service)
        """,
        holding=_HOLDING,
    )
)


def find_job(
    connection: Connection, job_id: UUID, *, service: str | None, models: str = "{}"
) -> RowMapping | None:
    """A job as it stands now; None when there is none, or when it is another service's.

    `service` None: anybody's. `prompt_version` and `model` are those that answered, and until then
    those it was pinned to. The usage columns (`calls`, `input_tokens` with those of the prompt
    cache, `output_tokens`, `cost_usd`) are sums over its calls so far. `held_by` is the budget that
    holds a queued job, `held_until` the end of its window; `models` names the model of each task's
    jobs, as JSON.
    """
    values = {"id": job_id, "service": service, "models": models}
    return connection.execute(_ONE, values).mappings().one_or_none()


def list_jobs(
    connection: Connection,
    *,
    service: str | None,
    task: str | None = None,
    state: str | None = None,
    user_id: str | None = None,
    after: Position | None = None,
    limit: int = 100,
    models: str = "{}",
) -> Page:
    """Up to `limit` jobs, the newest first, with the columns of `find_job`; None means any.

    A service's jobs are read from its own index, so other services' cost it nothing.
    """
    values = {
        "service": service,
        "task": task,
        "state": state,
        "user_id": user_id,
        "created_at": after.created_at if after else None,
        "id": after.id if after else None,
    }
    # Only the conditions that there are: a plan for any of them would use no index.
    wanted = [
        f"{column} = :{column}"
        for column in ("service", "task", "state", "user_id")
        if values[column] is not None
    ]
    if after is not None:
        wanted.append("(created_at, id) < (:created_at, :id)")
    chosen = f"""
        SELECT * FROM jobs WHERE {" AND ".join(wanted) or "true"}
        ORDER BY created_at DESC, id DESC LIMIT :more
    """  # noqa: S608 – the values are parameters
    statement = text(_JOBS.format(chosen=chosen, holding=_HOLDING))
    given: dict[str, object] = {"more": limit + 1, "models": models}
    given |= {name: value for name, value in values.items() if value is not None}
    rows = connection.execute(statement, given).mappings().all()
    jobs = rows[:limit]
    more = len(rows) > limit
    return Page(jobs, Position(jobs[-1]["created_at"], jobs[-1]["id"]) if more else None)
