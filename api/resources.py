"""What clients send and get, as models: for checking what they send, and for the OpenAPI document.

What they get is put together from rows without these models; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
)
from sqlalchemy import RowMapping

from worker.storage.enqueue import NewJob

State = Literal["queued", "dispatched", "running", "succeeded", "failed", "cancelled"]

#: What may stand in a header, so that it cannot break out of one.
KEY_PATTERN = r"^[ -~]+$"
KEY_LENGTH = 255

PIN_PATTERN = r"^[^@]+(@[0-9a-f]{12,64})?$"


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("a time as text in ISO 8601, such as 2030-01-31T12:00:00Z")
    return value


def _sensible(value: datetime) -> datetime:
    if not 2000 <= value.year < 3000:
        raise ValueError("a time between the years 2000 and 3000")
    return value.astimezone(UTC)  # Postgres knows no zone more than 16 hours from it


Moment = Annotated[AwareDatetime, Strict(False), BeforeValidator(_text), AfterValidator(_sensible)]


class JobOptions(BaseModel):
    """How a job is to be run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user_id: str | None = Field(
        None, max_length=256, description="On whose behalf; an opaque id, kept for accounting."
    )
    priority: int = Field(100, ge=0, le=32767, description="0 first.")
    lane: Literal["interactive", "batch"] | None = Field(
        None,
        description="batch: half the price, within a day. By default, what the deadline allows.",
    )
    run_at: Moment | None = Field(None, description="Not before then.")
    deadline: Moment | None = Field(None, description="Not tried again after that.")
    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=KEY_LENGTH,
        pattern=KEY_PATTERN,
        description="The same key is the same job; the header Idempotency-Key says the same.",
    )
    prompt_version: str | None = Field(
        None,
        max_length=100,
        pattern=PIN_PATTERN,
        description="Pins a version, such as 1.2, or its content: 1.2@<digits of its hash>.",
    )
    model: str | None = Field(
        None, min_length=1, max_length=200, description="Overrides the prompt version's."
    )
    max_attempts: int | None = Field(None, ge=1, le=999, description="Overrides the task's.")
    stream: bool = Field(False, description="Publish the reply as it is written.")
    cache: bool = Field(
        True, description="false: ask Claude in any case, and serve the result to no other job."
    )
    webhook_url: str | None = Field(
        None,
        min_length=1,
        max_length=2048,
        pattern=r"^https?://[!-~]+$",
        description="Told when the job has ended.",
    )


class Request(JobOptions):
    """A job of a task that the path names."""

    input: dict[str, Any]


class NamedRequest(Request):
    """A job of any task."""

    task: str = Field(max_length=200)


class JobError(BaseModel):
    """Why the last attempt failed."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A stable word, such as rate_limited or invalid_output.")
    message: str
    request_id: str | None = None
    status: int | None = None
    problems: list[dict[str, str]] = []
    attempt: int = 0


class Usage(BaseModel):
    """What the job has used so far, over all its calls."""

    calls: int
    input_tokens: int = Field(description="With those read from and written to the prompt cache.")
    output_tokens: int
    cost_usd: str = Field(description="US dollars, as a decimal number in text.")


class Links(BaseModel):
    """Where to go from here."""

    self: str
    events: str


class JobResource(BaseModel):
    """A job as it stands."""

    id: UUID
    task: str
    state: State
    priority: int
    user_id: str | None
    idempotency_key: str | None
    prompt_version: str | None = Field(
        description="The one that answered; until then, what the job was pinned to."
    )
    model: str | None = Field(
        description="The one that answered; until then, what the job was pinned to."
    )
    attempt: int
    max_attempts: int
    stream: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    held_by: str | None = Field(
        description="The budget that holds the job while it is queued, such as `all per day`."
    )
    held_until: datetime | None = Field(
        description="The end of that budget's window; sooner if the budget is raised."
    )
    error: JobError | None
    output: dict[str, Any] | None
    usage: Usage
    links: Links


class JobList(BaseModel):
    """A page of jobs, the newest first."""

    jobs: list[JobResource]
    next_cursor: str | None = Field(description="Where the next page begins; null on the last.")


class ProblemError(BaseModel):
    """One thing that is wrong with a request."""

    path: str
    problem: str


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[ProblemError] = []


class BatchItem(BaseModel):
    """What became of one job of a batch: its id, or the problem with it."""

    id: UUID | None = None
    created: bool | None = Field(None, description="False: its idempotency key was known.")
    problem: ProblemDetails | None = None


class BatchOutcome(BaseModel):
    """What became of each job of a batch, in the order in which they were sent."""

    jobs: list[BatchItem]
    enqueued: int = Field(description="How many have an id.")
    refused: int = Field(description="How many have a problem.")


class TaskResource(BaseModel):
    """A kind of job."""

    name: str
    description: str | None
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    max_attempts: int
    max_input_bytes: int
    links: dict[str, str]


class TaskList(BaseModel):
    """All kinds of jobs."""

    tasks: list[TaskResource]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


_COLUMNS = tuple(name for name in JobResource.model_fields if name not in ("usage", "links"))


def links(job_id: UUID) -> dict[str, str]:
    """The paths of a job."""
    return {"self": f"/v1/jobs/{job_id}", "events": f"/v1/jobs/{job_id}/events"}


def job_resource(row: RowMapping | Mapping[str, Any]) -> dict[str, Any]:
    """A job, from a row of `worker.storage.listing`."""
    return {column: _utc(row[column]) for column in _COLUMNS} | {
        "usage": {
            "calls": row["calls"],
            "input_tokens": int(row["input_tokens"]),
            "output_tokens": int(row["output_tokens"]),
            "cost_usd": format(row["cost_usd"], "f"),
        },
        "links": links(row["id"]),
    }


def fresh_resource(job: NewJob, created_at: datetime) -> dict[str, Any]:
    """A job that was inserted a moment ago."""
    return {
        "id": job.id,
        "task": job.task,
        "state": "queued",
        "priority": job.priority,
        "user_id": job.user_id,
        "idempotency_key": job.idempotency_key,
        "prompt_version": job.prompt_version,
        "model": job.model,
        "attempt": 0,
        "max_attempts": job.max_attempts,
        "stream": job.stream,
        "created_at": _utc(created_at),
        "started_at": None,
        "finished_at": None,
        "held_by": None,
        "held_until": None,
        "error": None,
        "output": None,
        "usage": {"calls": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": "0"},
        "links": links(job.id),
    }


def job_list(rows: Sequence[RowMapping], next_cursor: str | None) -> dict[str, Any]:
    """A page of jobs."""
    return {"jobs": [job_resource(row) for row in rows], "next_cursor": next_cursor}


def _utc(value: Any) -> Any:
    """Times as they are everywhere else, whatever zone the database session has."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value
