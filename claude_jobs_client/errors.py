"""What the client raises: every message is one line that names what to fix.

An argument that can never be right – a base URL without a host, an id that is none – is a
`ValueError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from claude_jobs_client.models import Job, Problem


class JobsClientError(Exception):
    """Base of everything that this package raises."""


class RequestRefused(JobsClientError):
    """The gateway does not do what was asked, and will not if it is asked again.

    `problem` is what it answered: RFC 9457 problem details.
    """

    def __init__(self, message: str, problem: Problem) -> None:
        super().__init__(message)
        self.problem = problem


class InvalidRequest(RequestRefused):
    """The request does not fit: `problem.errors` says where. 400, 413, 415 or 422."""


class Unauthorized(RequestRefused):
    """The key is unknown, revoked or expired. 401."""


class Forbidden(RequestRefused):
    """The key lacks the scope. 403."""


class NotFound(RequestRefused):
    """There is no such job, or it is another service's. 404."""


class IdempotencyConflict(RequestRefused):
    """The idempotency key was used before, with another input. 409."""


class TemporaryError(JobsClientError):
    """It was tried as often as `Retries` allows; later it may work.

    `retry_after` is what the gateway asked for (seconds). `idempotency_key` is what a job, or a
    batch, was sent with: the gateway may have taken it, and its answer was lost. Enqueue it again
    with that key, and it is the same job.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.idempotency_key: str | None = None


class TooManyRequests(TemporaryError):
    """The key was used too often, or the service has too many streams open. 429."""


class Unavailable(TemporaryError):
    """The gateway cannot be reached, or cannot reach its database. 502, 503, 504 or none."""


class UnexpectedAnswer(JobsClientError):
    """An answer that no gateway should give: it failed (500), or something else answered."""


class JobFailed(JobsClientError):
    """The job failed; `job.error` says why."""

    def __init__(self, message: str, job: Job[Any]) -> None:
        super().__init__(message)
        self.job = job


class JobCancelled(JobsClientError):
    """The job was cancelled."""


class JobNotEnded(JobsClientError, TimeoutError):
    """The job has not ended, or not within the timeout; it goes on regardless."""


class OutputMismatch(JobsClientError):
    """The job's output does not fit the model that was given; `problems` says where."""

    def __init__(self, message: str, problems: Sequence[str]) -> None:
        super().__init__(message)
        self.problems = list(problems)
