"""The OpenAPI document: the routes' own, with schemas that come from the tasks themselves.

Every task has its input, its output and its job as a schema of its own, so that a generated client
has a type for each. FastAPI would name them by module and class, `tasks__summarize_text__Output`;
here they are `SummarizeTextOutput`, whatever else the process has loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, create_model
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from api.resources import (
    BatchOutcome,
    Health,
    JobList,
    JobResource,
    NamedRequest,
    ProblemDetails,
    Request,
    TaskList,
)
from worker.engine.registry import AnyTask, Registry

_REF = "#/components/schemas/"
_PROBLEM = {"application/problem+json": {"schema": {"$ref": _REF + "ProblemDetails"}}}

_STATUSES = {
    200: "As described above.",
    202: "It is on its way.",
    400: "The body is not JSON.",
    401: "No valid key was sent.",
    403: "The key lacks the scope.",
    404: "There is no such job, or it is another service's.",
    408: "The body did not arrive in time.",
    409: "The idempotency key was used before, with another input.",
    413: "The body, or the input in it, is too large.",
    415: "The body is not said to be JSON.",
    422: "The request does not fit; `errors` says where.",
    429: "The key was used too often, or the service has too many streams open.",
    503: "The database cannot be reached now.",
}
#: What every route that needs a key may answer.
_ALWAYS = (401, 403, 429, 503)

Schemas = dict[str, Any]


def answers(models: Mapping[int, str], *problems: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: its schemas by status, and the problems it may answer with."""
    documented: dict[int | str, dict[str, Any]] = {
        status: {
            "description": _STATUSES[status],
            "content": {"application/json": {"schema": {"$ref": _REF + model}}},
        }
        for status, model in models.items()
    }
    for status in (*problems, *_ALWAYS):
        documented[status] = {"description": _STATUSES[status], "content": _PROBLEM}
    documented["default"] = {"description": "Something else is wrong.", "content": _PROBLEM}
    return documented


def body_of(model: str) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body itself."""
    content = {"application/json": {"schema": {"$ref": _REF + model}}}
    return {"requestBody": {"required": True, "content": content}}


def document(app: FastAPI, registry: Registry) -> Schemas:
    """The whole document."""
    made = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    made["components"]["schemas"] = components(registry)
    return made


def components(registry: Registry) -> Schemas:
    """The schemas, by name."""
    named: Schemas = _schemas(
        (JobResource, "serialization"),
        (JobList, "serialization"),
        (BatchOutcome, "serialization"),
        (ProblemDetails, "serialization"),
        (TaskList, "serialization"),
        (Health, "serialization"),
    )
    requests = []
    for task in registry.values():
        prefix = prefix_of(task)
        named |= _task_schemas(task, prefix, named)
        requests.append(f"{_REF}{prefix}NamedRequest")
    named["NamedRequest"] = {
        "title": "NamedRequest",
        "oneOf": [{"$ref": ref} for ref in requests],
        "discriminator": {
            "propertyName": "task",
            "mapping": dict(zip(registry, requests, strict=True)),
        },
    }
    item = {"$ref": _REF + "NamedRequest"}
    named["Batch"] = {
        "title": "Batch",
        "type": "object",
        "additionalProperties": False,
        "required": ["jobs"],
        "properties": {"jobs": {"type": "array", "minItems": 1, "maxItems": 10_000, "items": item}},
    }
    return named


def prefix_of(task: AnyTask) -> str:
    """What the names of a task's schemas begin with: `summarize_text`'s with `SummarizeText`."""
    return "".join(part.capitalize() for part in task.name.split("_"))


def _task_schemas(task: AnyTask, prefix: str, shared: Schemas) -> Schemas:
    name: Any = Literal[task.name]
    output: Any = task.output | None
    request = create_model(f"{prefix}Request", __base__=Request, input=(task.input, ...))
    named = create_model(
        f"{prefix}NamedRequest",
        __base__=NamedRequest,
        input=(task.input, ...),
        task=(name, ...),
    )
    resource = create_model(
        f"{prefix}Job",
        __base__=JobResource,
        task=(name, ...),
        output=(output, ...),
    )
    request.__doc__ = named.__doc__ = f"A job of {task.name} that is to be enqueued."
    resource.__doc__ = f"A job of {task.name} as it stands."
    found = _schemas((request, "validation"), (named, "validation"), (resource, "serialization"))
    names = {
        f"{_REF}{name}": f"{_REF}{name if name.startswith(prefix) else prefix + name}"
        for name, schema in found.items()
        if shared.get(name) != schema
    }
    renamed = _with_refs(found, names)
    return {
        names.get(_REF + name, _REF + name).removeprefix(_REF): schema
        for name, schema in renamed.items()
    }


def _schemas(*models: tuple[type[BaseModel], JsonSchemaMode]) -> Schemas:
    _, found = models_json_schema(models, ref_template=_REF + "{model}")
    defined: Schemas = found["$defs"]
    return defined


def _with_refs(schema: Any, names: Mapping[str, str]) -> Any:
    if isinstance(schema, list):
        return [_with_refs(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: names.get(value, value)
        if name == "$ref" and isinstance(value, str)
        else _with_refs(value, names)
        for name, value in schema.items()
    }
