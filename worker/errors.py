"""What can go wrong, as types.

Two audiences: people who run a command or start a process get a `ClaudeJobsError`, whose text is
one line that names what to fix; an attempt that fails carries a `Failure`, which is kept as data
in `jobs.error` and never holds a prompt, an input or an output in its `summary`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class ClaudeJobsError(Exception):
    """Base of every error that a person is meant to read: one line, no traceback needed."""


class ConfigurationError(ClaudeJobsError):
    """A setting, a prompt or a task definition is missing or malformed."""


class InvalidInput(ClaudeJobsError):
    """The input does not fit the task's input model, or cannot be stored.

    `problems` has what is wrong, each with its `path` and `problem`, where that is known.
    """

    def __init__(self, message: str, problems: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = [dict(problem) for problem in problems]


class InputTooLarge(InvalidInput):
    """The input has more bytes than `CLAUDE_JOBS_MAX_INPUT_BYTES`."""


class UnknownTask(ClaudeJobsError):
    """No task of that name is registered."""


class UnknownPromptVersion(ClaudeJobsError):
    """The prompt has no such version."""


class ReleaseRefused(ClaudeJobsError):
    """A prompt version is not ready to serve; the message says what is missing."""


class IdempotencyConflict(ClaudeJobsError):
    """The same idempotency key was used before, with a different input."""


class SchemaMismatch(ClaudeJobsError):
    """The database is not at the migration that this code was written for."""


class StorageUnavailable(ClaudeJobsError):
    """Postgres cannot be reached."""


class JobNotFound(ClaudeJobsError):
    """No job has that id."""


class JobFailed(ClaudeJobsError):
    """Raised by `Job.wait` for a job that failed; `error` is what `jobs.error` holds."""

    def __init__(self, message: str, error: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error = error or {}


class JobCancelled(ClaudeJobsError):
    """Raised by `Job.wait` for a job that was cancelled."""


class WaitTimeout(ClaudeJobsError, TimeoutError):
    """The job had not ended when the time given to `Job.wait` was up; it goes on regardless."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not produce a result.

    `type` is a stable word that can be filtered on (`rate_limited`, `invalid_output`, …).
    `summary` may be logged and shown in Flower; `message` and `problems` may quote an input or
    an output and stay in Postgres.
    """

    type: str
    summary: str
    message: str | None = None
    request_id: str | None = None
    status: int | None = None
    problems: list[dict[str, str]] = field(default_factory=list)

    def as_json(self, attempt: int) -> dict[str, Any]:
        """The value of `jobs.error`; keys without a value are left out."""
        data = {
            "type": self.type,
            "message": self.message or self.summary,
            "request_id": self.request_id,
            "status": self.status,
            "problems": self.problems,
            "attempt": attempt,
        }
        return {key: value for key, value in data.items() if value not in (None, [])}


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `after` seconds; costs an attempt."""

    after: float


@dataclass(frozen=True, slots=True)
class Snooze:
    """Come back after `after` seconds; costs no attempt: there was no capacity now."""

    after: float


@dataclass(frozen=True, slots=True)
class Fail:
    """Another try cannot help, or none is left: the job ends as `failed`."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody asked for it: the job ends as `cancelled`."""


@dataclass(frozen=True, slots=True)
class PauseQueue:
    """Nothing can run until a person acts: pause everything for `reason`; costs no attempt."""

    reason: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """Somebody else has the job: write nothing."""


Decision = Retry | Snooze | Fail | Cancelled | PauseQueue | Abandon
