"""A kind of job: what goes in, what must come out, and what is asked of it."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from worker.engine.checks import in_words, problems_of, unstorable
from worker.engine.destination import malformed_url
from worker.engine.job import Job
from worker.engine.lanes import check_times, in_utc, lane_of
from worker.engine.pins import parse_pin
from worker.engine.policy import DEFAULT_BACKOFF, Backoff
from worker.engine.prompts import get_prompts
from worker.errors import ConfigurationError, InputTooLarge, InvalidInput
from worker.settings import get_settings
from worker.storage.engine import transaction
from worker.storage.enqueue import NewJob, insert_jobs, new_job_id

#: Output tokens of a call above which people are told, unless the task says otherwise.
DEFAULT_OUTPUT_BOUND = 5_000

Input = TypeVar("Input", bound=BaseModel)
Output = TypeVar("Output", bound=BaseModel)


class TaskInput(BaseModel):
    """Base of input models: an unknown field is an error, a number is not a string."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TaskOutput(BaseModel):
    """Base of output models: exactly the declared fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Task(Generic[Input, Output]):
    """A kind of job. `name` is its identity: in `jobs.task`, as Celery's task, in metrics.

    To rename a task, add the new one beside the old one and remove the old one once no job of
    its name is left.

    Args:
        name: lower-case, stable, the same as its file's.
        input: what producers send; every field is a variable of the prompt's template.
        output: what Claude must return, and what `results.output` holds.
        prompt: the folder under `prompts/`; the task's name unless given.
        checks: functions `(input, output) -> None | "what is wrong"`, run on every reply; what
            they find is repaired, or else fails the job.
        warnings: checks whose findings are kept in `results.warnings` and stop nothing.
        repairs: how many replies of an attempt may be sent back to be corrected.
        token_budget: tokens of all kinds that a job may use over all its calls; once they are used
            up no further call is made. None: no bound.
        cost_budget: the same in US dollars.
        max_attempts: how many attempts a job gets before it fails.
        call_timeout: seconds that one call to Claude may take, by the wall clock.
        deadline: seconds from its first claim after which a job is not tried again.
        backoff: the pauses between attempts.
        output_bound: output tokens of one call, thinking included, above which an alert is raised;
            nothing is cut off or refused for it.
        webhook_url: told of every job of this task that has ended, unless the job names another;
            see docs/webhooks.md.
        cache_seconds: for how long a result is served again to jobs that make the identical
            request, and whether jobs that make it at once share one call; 0: never. Unless given,
            `CLAUDE_JOBS_CACHE_SECONDS`. See docs/caching.md.
        cache_per_user: a result is served to jobs of the same `user_id` only.
    """

    name: str
    input: type[Input]
    output: type[Output]
    prompt: str = ""
    checks: Sequence[Callable[[Input, Output], str | None]] = ()
    warnings: Sequence[Callable[[Input, Output], str | None]] = ()
    repairs: int = 1
    token_budget: int | None = 2_000_000
    cost_budget: Decimal | None = Decimal(10)
    max_attempts: int = 5
    call_timeout: float = 120.0
    deadline: float = 24 * 3600.0
    backoff: Backoff = DEFAULT_BACKOFF
    output_bound: int = DEFAULT_OUTPUT_BOUND
    webhook_url: str | None = None
    cache_seconds: float | None = None
    cache_per_user: bool = False

    def __post_init__(self) -> None:
        if not self.prompt:
            object.__setattr__(self, "prompt", self.name)
        if not self.name.isidentifier() or self.name != self.name.lower():
            raise ConfigurationError(f"task {self.name!r}: a name is lower_case_with_underscores")
        if self.output_bound <= 0:
            raise ConfigurationError(f"task {self.name}: output_bound must be above 0 (tokens)")
        if self.cache_seconds is not None and not 0 <= self.cache_seconds < math.inf:
            raise ConfigurationError(
                f"task {self.name}: cache_seconds must be 0 (off) or above (seconds)"
            )
        if self.webhook_url is not None and (problem := malformed_url(self.webhook_url)):
            raise ConfigurationError(f"task {self.name}: webhook_url {problem}")
        options = set(inspect.signature(Task.enqueue).parameters) - {"values"}
        if clash := sorted(self.fields & options):
            raise ConfigurationError(
                f"task {self.name}: the input field {clash[0]!r} is an option of enqueue(): "
                "rename the field"
            )

    @property
    def fields(self) -> frozenset[str]:
        """The names of the input's fields."""
        return frozenset(self.input.model_fields)

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """The JSON schema of the input."""
        return self.input.model_json_schema()

    @cached_property
    def output_schema(self) -> dict[str, Any]:
        """The JSON schema of the output."""
        return self.output.model_json_schema()

    def parse_input(self, values: Mapping[str, Any]) -> Input:
        """The input that `values` describe, as Python objects or as parsed JSON.

        Raises:
            InvalidInput: names each field that is wrong and says how.
        """
        if problem := unstorable(dict(values)):
            path, _, what = problem.partition(": ")
            raise InvalidInput(f"{self.name}: {problem}", [{"path": path, "problem": what}])
        try:
            return self.input.model_validate_json(json.dumps(values))
        except ValidationError as error:
            problems = problems_of(error)
            raise InvalidInput(f"{self.name}: {in_words(problems)}", problems) from None
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{self.name}: the input is not JSON: {error}") from None

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Check what `enqueue` takes besides the input.

        Raises:
            InvalidInput: an option is wrong.
            UnknownPromptVersion: the prompt has no such version.
        """
        _check_options(options)
        if pin := options.get("prompt_version"):
            version, sha256 = parse_pin(pin)
            if not sha256:  # an exact content may be known to the database alone
                get_prompts().get(self.prompt, version)

    def new_job(self, values: Mapping[str, Any], **options: Any) -> NewJob:
        """A validated job, not inserted yet; `options` as for `enqueue`.

        Raises:
            InvalidInput: a field or an option is wrong, or the input is too large.
            UnknownPromptVersion: the prompt has no such version.
        """
        self.check_options(options)
        document = self.parse_input(values).model_dump_json()
        size, limit = len(document.encode()), get_settings().max_input_bytes
        if size > limit:
            raise InputTooLarge(
                f"{self.name}: the input is {size:,} bytes, the limit is {limit:,} "
                "(CLAUDE_JOBS_MAX_INPUT_BYTES)"
            )
        for name in ("run_at", "deadline"):
            options[name] = in_utc(name, options.get(name))
        return NewJob(
            task=self.name,
            input=document,
            id=new_job_id(),
            lane=lane_of(options.pop("lane", None), options, get_settings().batch_deadline_hours),
            deadline_at=options.pop("deadline"),
            max_attempts=options.pop("max_attempts", None) or self.max_attempts,
            webhook_url=options.pop("webhook_url", None) or self.webhook_url,
            **options,
        )

    def enqueue(
        self,
        *,
        session: Session | Connection | None = None,
        user_id: str | None = None,
        priority: int = 100,
        lane: str | None = None,
        run_at: datetime | None = None,
        deadline: datetime | None = None,
        idempotency_key: str | None = None,
        prompt_version: str | None = None,
        model: str | None = None,
        max_attempts: int | None = None,
        stream: bool = False,
        webhook_url: str | None = None,
        cache: bool = True,
        **values: Any,
    ) -> Job[Output]:
        """Insert a job and return its handle.

        Args:
            session: an open SQLAlchemy session or connection; the job becomes part of its
                transaction – runs when it commits, never existed when it rolls back.
            user_id: on whose behalf; kept on every row for accounting.
            priority: 0 first.
            lane: `interactive` or `batch`, where it costs half and takes up to a day. None: batch
                if the deadline leaves the time (`CLAUDE_JOBS_BATCH_DEADLINE_HOURS`) and nobody
                streams it; see docs/batches.md.
            run_at: not before then (with a time zone).
            deadline: not tried again after that time (with a time zone). None: after the task's
                seconds from its first claim.
            idempotency_key: enqueueing again with the same key returns the same job.
            prompt_version: pins a version (`1.2`, or `1.2@<beginning of its hash>`); otherwise the
                one that serves when the job is claimed.
            model: overrides the prompt version's model.
            max_attempts: overrides the task's.
            stream: receive the reply as it is written, and publish it for `Job.stream`, which
                costs the worker ten times the CPU: the time to the first token is recorded, and a
                stalled reply is noticed in seconds.
            webhook_url: overrides the task's; told when the job has ended (docs/webhooks.md).
            cache: False: Claude is asked in any case, and the result is not served to others.
            values: the fields of the input.

        Raises:
            InvalidInput: a field or an option is wrong.
            UnknownPromptVersion: the prompt has no such version.
            IdempotencyConflict: the key was used before with a different input.
            StorageUnavailable: Postgres cannot be reached.
        """
        job = self.new_job(
            values,
            user_id=user_id,
            priority=priority,
            lane=lane,
            run_at=run_at,
            deadline=deadline,
            idempotency_key=idempotency_key,
            prompt_version=prompt_version,
            model=model,
            max_attempts=max_attempts,
            stream=stream,
            webhook_url=webhook_url,
            cache=cache,
        )
        return Job(self._insert([job], session)[0], self)  # type: ignore[arg-type]

    def enqueue_many(
        self, jobs: Iterable[NewJob], session: Session | Connection | None = None
    ) -> list[Job[Output]]:
        """Insert jobs made by `new_job` in one statement.

        Raises:
            IdempotencyConflict, StorageUnavailable: as for `enqueue`; nothing is inserted then.
        """
        ids = self._insert(list(jobs), session)
        return [Job(job_id, self) for job_id in ids]  # type: ignore[arg-type]

    def _insert(self, jobs: list[NewJob], session: Session | Connection | None) -> list[UUID]:
        if session is None:
            with transaction() as connection:
                return insert_jobs(connection, jobs)
        connection = session.connection() if isinstance(session, Session) else session
        return insert_jobs(connection, jobs)


def _check_options(options: Mapping[str, Any]) -> None:
    """What Pydantic does for the input; options come from the command line and from messages."""
    if problem := unstorable(dict(options)):
        raise InvalidInput(problem)
    priority = options.get("priority", 100)
    if not isinstance(priority, int) or not 0 <= priority <= 32767:
        raise InvalidInput(f"priority {priority} is not between 0 (first) and 32767")
    if (lane := options.get("lane")) not in (None, "interactive", "batch"):
        raise InvalidInput(f"lane {lane!r} is neither 'interactive' nor 'batch'")
    check_times(options.get("run_at"), options.get("deadline"))
    attempts = options.get("max_attempts")
    if attempts is not None and not 0 < attempts < 1000:
        raise InvalidInput(f"max_attempts {attempts} is not between 1 and 999")
    for name in ("idempotency_key", "user_id"):  # they stand in indexes, whose rows are bounded
        if len((options.get(name) or "").encode()) > 2000:
            raise InvalidInput(f"{name} is longer than 2,000 bytes")
    url = options.get("webhook_url")
    if url is not None and (problem := malformed_url(url)):
        raise InvalidInput(f"webhook_url {problem}")
