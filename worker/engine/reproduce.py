"""The exact request of a call that was made, from what the database keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from worker.claude.request import Correction, Request
from worker.engine.catalog import load
from worker.engine.prompts import Prompt
from worker.engine.registry import Registry
from worker.engine.rendering import OutputSchema, render_request
from worker.errors import InvalidInput
from worker.storage import read, releases


def reproduce(
    connection: Connection, registry: Registry, job: Mapping[str, Any], call: Mapping[str, Any]
) -> Request:
    """What `call`, a row of `usage`, sent for `job`, a row of `jobs`.

    Raises:
        UnknownPromptVersion: the content of its prompt version is nowhere to be found.
        UnknownTask: the task is gone, and with it the form of its input.
        InvalidInput: the input does not fit the task any more, or the call is too old.
    """
    schema = call["schema_sha256"] and releases.find_schema(connection, call["schema_sha256"])
    if not schema:
        raise InvalidInput("the call is older than migration 0006: its schema was not kept")
    task, prompt = registry[job["task"]], _prompt(connection, registry, call)
    values = task.parse_input(job["input"]).model_dump()
    model = job["model"] or prompt.file.model
    request = render_request(prompt, model, values, OutputSchema(schema), job["user_id"])
    follow_up = read.follow_up(connection, call["id"])
    if follow_up is None:
        return request
    correction = follow_up["correction"] and Correction(**follow_up["correction"])
    return replace(
        request,
        model=follow_up["model"],
        max_tokens=follow_up["max_tokens"],
        correction=correction,
    )


def _prompt(connection: Connection, registry: Registry, call: Mapping[str, Any]) -> Prompt:
    name, version, sha256 = call["prompt"], call["prompt_version"], call["prompt_sha256"]
    library = registry.prompts
    if library.has(name, version) and library.get(name, version).sha256 == sha256:
        return library.get(name, version)
    return load(connection, name, version, sha256)
