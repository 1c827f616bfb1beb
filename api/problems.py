"""Errors as RFC 9457 problem details: every one that leaves the gateway is made here.

What they say is about the request. What went wrong on this side stands in the log; an exception's
message stays out of both, as it may quote an input.
"""

from __future__ import annotations

import http
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from worker.errors import (
    InputTooLarge,
    InvalidInput,
    StorageUnavailable,
    UnknownPromptVersion,
)

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Before the name of each kind of problem; a URN has no page behind it that could move.
TYPE = "urn:claude-jobs:problem:"

#: Of all that is wrong with a request, so much is told: an answer must not outgrow its request.
MOST_ERRORS = 20

#: What to do about statuses that the framework gives, where the title does not say it.
_DETAILS = {
    404: "There is no such resource.",
    405: "This resource does not have that method; see the Allow header.",
}


class Problem(Exception):
    """An answer that is an error.

    Args:
        kind: a stable word that programs can go by; `type` is made of it.
        detail: what is wrong with this request, for people.
        errors: what is wrong, each with its `path` and `problem`; the first twenty are told.
        close: the connection cannot be used again: part of the request was not read.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.errors = list(errors[:MOST_ERRORS])
        self.headers = dict(headers or {}) | ({"connection": "close"} if close else {})

    def as_json(self, instance: str | None = None) -> dict[str, Any]:
        """The problem details, members without a value left out."""
        data: dict[str, Any] = {
            "type": TYPE + self.kind,
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
        }
        if instance is not None:
            data["instance"] = instance
        if self.errors:
            data["errors"] = self.errors
        return data

    def response(self, path: str) -> Response:
        """The answer to a request for `path`."""
        body = to_json(self.as_json(path))
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def not_found() -> Problem:
    """Of a job that is not there, or somebody else's: nobody can tell one from the other."""
    return Problem(404, "job-not-found", "There is no such job.")


def unavailable() -> Problem:
    """Postgres is away, or too busy."""
    return Problem(
        503,
        "unavailable",
        "The database cannot be reached now. Try again; with an idempotency key nothing is "
        "enqueued twice.",
        headers={"retry-after": "2"},
    )


def from_exception(error: Exception) -> Problem:
    """What a client is told of an exception; one that nobody expected is logged, and is a 500."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # out of a task group
    problem = _expected(error)
    if problem is None:
        log_unexpected(error)
        detail = "Something went wrong on this side; it has been logged."
        problem = Problem(500, "internal", detail)
    return problem


def _expected(error: Exception) -> Problem | None:
    made: Problem | None = None
    match error:
        case Problem():
            made = error
        case StorageUnavailable():
            made = unavailable()
        case InputTooLarge():
            made = Problem(413, "input-too-large", str(error))
        case InvalidInput():
            made = _misfit(str(error), error.problems)
        case UnknownPromptVersion():
            made = _misfit(str(error), [{"path": "prompt_version", "problem": str(error)}])
        case RequestValidationError():
            made = _misfit("The request does not fit.", [_problem(each) for each in error.errors()])
        case HTTPException(status_code=status):
            detail = _DETAILS.get(status, str(error.detail))
            kind = http.HTTPStatus(status).phrase.lower().replace(" ", "-")
            headers = {name.lower(): value for name, value in (error.headers or {}).items()}
            made = Problem(status, kind, detail, headers=headers)
    return made


def _misfit(detail: str, errors: Sequence[Mapping[str, str]]) -> Problem:
    return Problem(422, "invalid-input", detail, errors=errors)


def _problem(error: Mapping[str, Any]) -> dict[str, str]:
    """One of FastAPI's, without the value."""
    return {"path": ".".join(map(str, error["loc"])), "problem": error["msg"]}


def log_unexpected(error: BaseException) -> None:
    """Log where an exception came from, without its message: that may quote an input."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    where = " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    facts = (
        {"sqlstate": getattr(error.orig, "sqlstate", None)} if isinstance(error, DBAPIError) else {}
    )
    log.error("request failed", error=type(error).__name__, where=where, **facts)


async def handle(request: Request, error: Exception) -> Response:
    """Answer what a handler raised."""
    problem = from_exception(error)
    if problem.status == 405:
        problem.headers["allow"] = ", ".join(sorted(_methods(request)))
    return problem.response(request.scope["path"])


def _methods(request: Request) -> set[str]:
    """Those of all routes for this path; the framework names only those of the first one."""
    return {
        method
        for method in ("GET", "POST", "DELETE")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
