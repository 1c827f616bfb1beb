"""Requests and answers as values: everything about HTTP but the sending."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from claude_jobs_client.errors import (
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    JobsClientError,
    NotFound,
    RequestRefused,
    TemporaryError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from claude_jobs_client.models import Job, Problem, mismatch, one_line, problems_of
from claude_jobs_client.retries import Retries

M = TypeVar("M", bound=BaseModel)

_CONNECT_SECONDS = 5.0
_REFUSED: Mapping[int, type[RequestRefused]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: IdempotencyConflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
}
_TEMPORARY: Mapping[int, type[TemporaryError]] = {
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Request:
    """One that can be sent any number of times; what is in it stays out of its `repr`.

    `silence` is for how long the gateway may say nothing, where that is not the client's `timeout`
    (seconds).
    """

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = field(default=None, repr=False)
    silence: float | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where requests go, and in whose name.

    Raises:
        ValueError: one of them cannot be right.
    """

    url: str
    key: str = field(repr=False)
    timeout: float
    retries: Retries

    def __post_init__(self) -> None:
        try:
            parsed = httpx2.URL(self.url)
        except (httpx2.InvalidURL, TypeError):
            parsed = httpx2.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError("base_url is the gateway's, such as https://jobs.example.com")
        if not re.fullmatch(r"cj_[A-Za-z0-9_-]+", str(self.key)):
            raise ValueError("key is one that `claude-jobs keys create` printed: cj_…")
        if self.timeout <= 0:
            raise ValueError("timeout is a positive number of seconds")

    def arguments(self, request: Request) -> dict[str, Any]:
        """For `httpx2.Client.request` and its like."""
        silence = self.timeout if request.silence is None else request.silence
        headers = {"authorization": f"Bearer {self.key}", "accept": "application/json"}
        if request.content is not None:
            headers["content-type"] = "application/json"
        return {
            "method": request.method,
            "url": self.url.rstrip("/") + request.path,
            "params": request.params,
            "headers": headers | dict(request.headers),
            "content": request.content,
            "timeout": httpx2.Timeout(silence, connect=min(silence, _CONNECT_SECONDS)),
            "follow_redirects": False,
        }


def new_http(kind: type[Any]) -> Any:
    """A client of httpx2; the number of connections is for the gateway to bound."""
    return kind(limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100))


def lost(request: Request, error: httpx2.RequestError) -> Unavailable:
    """The error of a request that got no answer, or not all of it."""
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    return Unavailable(
        one_line(f"{request}: no answer from the gateway ({why}): is base_url right, is it up?")
    )


def check(request: Request, answer: httpx2.Response) -> None:
    """Check that it is an answer that was hoped for.

    Raises:
        RequestRefused, TemporaryError, UnexpectedAnswer: it is not, by its status.
    """
    if answer.is_success:
        return
    status, problem = answer.status_code, _problem(answer)
    if status in _TEMPORARY:
        told = str(problem) if problem else f"{status} {answer.reason_phrase}"
        after = _seconds(answer.headers.get("retry-after", ""))
        raise _TEMPORARY[status](f"{request}: {told}", retry_after=after)
    if problem is None:
        raise _unexpected(request, answer)
    if status >= 500:
        number = answer.headers.get("x-request-id", "none")
        raise UnexpectedAnswer(f"{request}: {problem} (request id {number})")
    raise refusal(request, problem)


def refusal(request: Request, problem: Problem) -> RequestRefused:
    """The error for a problem that stays one however often the request is sent."""
    return _REFUSED.get(problem.status, RequestRefused)(f"{request}: {problem}", problem)


def parse(request: Request, answer: httpx2.Response, model: type[M]) -> M:
    """The answer as data.

    Raises:
        OutputMismatch: a job's output is not of its type.
        UnexpectedAnswer: it is something else altogether.
    """
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        raise _misfit(request, answer, model, problems_of(error)) from None


def _misfit(
    request: Request, answer: httpx2.Response, model: type[BaseModel], problems: list[str]
) -> JobsClientError:
    if issubclass(model, Job) and all(problem.startswith("output") for problem in problems):
        return mismatch(Job[Any].model_validate_json(answer.content), problems)
    return _unexpected(request, answer, problems[0])


def _problem(answer: httpx2.Response) -> Problem | None:
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        return Problem.model_validate(from_json(answer.content))
    except ValueError:
        return None


def _unexpected(request: Request, answer: httpx2.Response, why: str = "") -> UnexpectedAnswer:
    told = why or answer.headers.get("location") or answer.headers.get("content-type", "no type")
    return UnexpectedAnswer(
        one_line(
            f"{request}: {answer.status_code} is not an answer of the gateway ({told}): "
            "is base_url right?"
        )
    )


def _seconds(retry_after: str) -> float | None:
    """A Retry-After, which has seconds or a date."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
