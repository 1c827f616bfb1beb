"""What is sent and what comes back, as data: no connection hangs on it, and it can be kept.

Members that are not known here are ignored, so that a newer gateway breaks no older client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, Literal, TypedDict, Unpack
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from typing_extensions import TypeVar

from claude_jobs_client.errors import JobCancelled, JobFailed, JobNotEnded, OutputMismatch

#: An output's type: a Pydantic model, a dataclass, a TypedDict …; plain JSON unless one is given.
T = TypeVar("T", default=dict[str, Any])
M = TypeVar("M")

State = Literal["queued", "dispatched", "running", "succeeded", "failed", "cancelled"]
Input = BaseModel | Mapping[str, Any]


class Options(TypedDict, total=False):
    """How a job is to be run; None is as good as nothing.

    `priority`: 0 first. `run_at`: not before then, `deadline`: not tried again after that, both
    with a time zone. `lane`: `batch` costs half and takes up to a day; unless it is given, a
    deadline that is far enough away chooses it. `idempotency_key`: the same key and input are the
    same job. `stream`: publish the reply as it is written. `cache`: False to have Claude asked in
    any case.
    """

    user_id: str | None
    priority: int | None
    lane: Literal["interactive", "batch"] | None
    run_at: datetime | None
    deadline: datetime | None
    idempotency_key: str | None
    prompt_version: str | None
    model: str | None
    max_attempts: int | None
    stream: bool | None
    cache: bool | None
    webhook_url: str | None


class NewJob:
    """A job that is to be enqueued, for `enqueue_many`."""

    def __init__(self, task: str, input: Input, **options: Unpack[Options]) -> None:
        self.task = task
        self.input = input
        self.options = options

    def __repr__(self) -> str:
        return f"<NewJob {self.task}>"

    def body(self, idempotency_key: str) -> bytes:
        """What is sent; `idempotency_key` is used unless the job has its own.

        Raises:
            ValueError: it holds what JSON cannot: NaN, say, or an object that nobody can serialise.
        """
        given = {name: value for name, value in self.options.items() if value is not None}
        body = {"idempotency_key": idempotency_key, "task": self.task, "input": self.input} | given
        try:
            # Not pydantic_core's, which writes NaN, and the gateway's parser can only say where.
            text = json.dumps(body, allow_nan=False, ensure_ascii=False, default=to_jsonable_python)
            return text.encode()
        except (ValueError, TypeError) as error:
            raise ValueError(one_line(f"{self.task} cannot be sent as JSON: {error}")) from None


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class JobError(_Model):
    """Why a job's last attempt failed. `type` is a stable word; `message` may quote an output."""

    type: str
    message: str = Field(repr=False)
    attempt: int = 0
    status: int | None = None
    request_id: str | None = None
    problems: list[dict[str, str]] = Field([], repr=False)


class Usage(_Model):
    """What a job has used so far, over all its calls."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal


class Job(_Model, Generic[T]):
    """A job as it stood when the gateway answered. Its `repr` shows no output: logs are read."""

    id: UUID
    task: str
    state: State
    priority: int
    user_id: str | None
    idempotency_key: str | None
    prompt_version: str | None
    model: str | None
    attempt: int
    max_attempts: int
    stream: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    held_by: str | None = None
    held_until: datetime | None = None
    error: JobError | None
    output: T | None = Field(repr=False)
    usage: Usage

    @property
    def ended(self) -> bool:
        """Whether `state` is final: succeeded, failed or cancelled."""
        return self.finished_at is not None

    def result(self) -> T:
        """The output of a job that succeeded.

        Raises:
            JobFailed, JobCancelled: it did not.
            JobNotEnded: it has not ended.
        """
        if self.state == "failed":
            why = f"{self.error.type}: {self.error.message}" if self.error else "no reason is known"
            raise JobFailed(one_line(f"{self.task} {self.id} failed: {why}"), self)
        if self.state == "cancelled":
            raise JobCancelled(f"{self.task} {self.id} was cancelled")
        if self.state != "succeeded" or self.output is None:
            raise JobNotEnded(f"{self.task} {self.id} is {self.state}: wait for its end")
        return self.output

    def output_as(self, output: type[M]) -> M:
        """`result()`, validated as `output`; for a job that was read without a type.

        Raises:
            OutputMismatch: it does not fit.
            JobFailed, JobCancelled, JobNotEnded: as for `result`.
        """
        found = self.result()
        plain = found.model_dump() if isinstance(found, BaseModel) else found
        try:
            return TypeAdapter(output).validate_python(plain)
        except ValidationError as error:
            raise mismatch(self, problems_of(error)) from None


class JobPage(_Model, Generic[T]):
    """A page of a listing."""

    jobs: list[Job[T]]
    next_cursor: str | None


class ProblemError(_Model):
    """One thing that is wrong with a request."""

    path: str
    problem: str


class Problem(_Model):
    """An error, as RFC 9457 has it. `type` is stable: a URN that programs can go by."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemError] = []

    def __str__(self) -> str:
        if not self.errors:
            return one_line(self.detail)
        places = "; ".join(f"{error.path}: {error.problem}" for error in self.errors[:5])
        if self.errors[0].problem in self.detail:
            return one_line(places)
        return one_line(f"{self.detail.rstrip('.')}: {places}")


class BatchItem(_Model):
    """What became of one job of a batch: its `id`, or the `problem` with it.

    `created` is False if its idempotency key was known: `id` is the older job's.
    """

    id: UUID | None = None
    created: bool | None = None
    problem: Problem | None = None


class BatchOutcome(_Model):
    """What became of each job of a batch."""

    jobs: list[BatchItem]


class Task(_Model):
    """A kind of job, with the JSON schemas of its input and its output."""

    name: str
    description: str | None
    input_schema: dict[str, Any] = Field(repr=False)
    output_schema: dict[str, Any] = Field(repr=False)
    max_attempts: int
    max_input_bytes: int


class TaskList(_Model):
    """All kinds of jobs."""

    tasks: list[Task]


def one_line(message: str) -> str:
    """`message` without line breaks, and not too long."""
    line = " ".join(message.split())
    return line if len(line) <= 600 else f"{line[:600]} …"


def problems_of(error: ValidationError) -> list[str]:
    """What is wrong and where, without the values: these may be somebody's."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [f"{'.'.join(map(str, each['loc'])) or '(all)'}: {each['msg']}" for each in found]


def mismatch(job: Job[Any], problems: list[str]) -> OutputMismatch:
    """The error of an output that does not fit the type that was asked for."""
    some = "; ".join(problems[:5])
    return OutputMismatch(
        one_line(f"the output of {job.task} {job.id} does not fit the type given: {some}"), problems
    )
