"""From what a client sent to a job that can be inserted."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from api.problems import Problem
from api.resources import JobOptions, NamedRequest, Request
from worker.engine.checks import problems_of
from worker.engine.registry import AnyTask, Registry
from worker.errors import InvalidInput, UnknownTask
from worker.storage.api_keys import ApiKey
from worker.storage.enqueue import NewJob

#: Characters of a name that is none.
_SHOWN = 100

R = TypeVar("R", bound=Request)


def parse_named(data: Any, registry: Registry, key: ApiKey, idempotency_key: str | None) -> NewJob:
    """A job of the task that the body names.

    Raises:
        Problem, InvalidInput: it cannot be one.
    """
    request = _parse(NamedRequest, data)
    try:
        task = registry[request.task]
    except UnknownTask:
        problem = f"There is no task {request.task[:_SHOWN]!r}"
        detail = f"{problem}; GET /v1/tasks lists those there are."
        errors = [{"path": "task", "problem": problem}]
        raise Problem(422, "unknown-task", detail, errors=errors) from None
    return _job(task, request, key, idempotency_key)


def parse_for(task: AnyTask, data: Any, key: ApiKey, idempotency_key: str | None) -> NewJob:
    """A job of this task; raises like `parse_named`."""
    return _job(task, _parse(Request, data), key, idempotency_key)


def _parse(model: type[R], data: Any) -> R:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error)
        raise Problem(422, "invalid-input", "The body does not fit.", errors=problems) from None


def _job(task: AnyTask, request: Request, key: ApiKey, idempotency_key: str | None) -> NewJob:
    options = {name: getattr(request, name) for name in JobOptions.model_fields}
    if idempotency_key is not None:
        if request.idempotency_key not in (None, idempotency_key):
            raise Problem(
                422,
                "invalid-input",
                "The header Idempotency-Key and the body's idempotency_key differ: send one.",
            )
        options["idempotency_key"] = idempotency_key
    try:
        return task.new_job(request.input, **options, service=key.service)
    except InvalidInput as error:
        # The fields of the input stand under `input` in what was sent.
        for problem in error.problems:
            problem["path"] = f"input.{problem['path']}"
        # What is said of an option begins with its name.
        option, _, rest = str(error).partition(" ")
        if (option := option.rstrip(":")) in options:
            error.problems.append({"path": option, "problem": rest})
        raise


def header_key(value: str | None) -> str | None:
    """The key in an `Idempotency-Key` header, which the IETF's draft puts in quotes."""
    if value is not None and len(value) > 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


def conflict(key: str | None) -> Problem:
    """The key belongs to another request."""
    return Problem(
        409,
        "idempotency-conflict",
        f"The idempotency key {key!r} was used before with another input: use a new key for a "
        "new request.",
    )
