"""Requests as Claude checks them: what comes back is either a `MessageRequest` or an `ApiError`."""

from __future__ import annotations

import json
import marshal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.claude.betas import unlocked_parameters
from sandbox.claude.conversation import (
    check_breakpoints,
    check_messages,
    check_system,
    check_tools,
    has_citations,
)
from sandbox.claude.errors import ApiError
from sandbox.claude.models import MODELS
from sandbox.claude.parameters import (
    check_metadata,
    check_speed,
    check_values,
    output_schema,
    thinking_type,
)
from sandbox.claude.schema_rules import check_schema

MAX_BODY_BYTES = 32 * 1024 * 1024
NO_BETAS: frozenset[str] = frozenset()

_COUNT_PARAMETERS = """
cache_control messages model output_config speed system thinking tool_choice tools
"""
_MESSAGE_PARAMETERS = """
container diagnostics inference_geo max_tokens metadata service_tier stop_sequences stream
"""
COUNT_PARAMETERS = frozenset(_COUNT_PARAMETERS.split())
MESSAGE_PARAMETERS = COUNT_PARAMETERS | frozenset(_MESSAGE_PARAMETERS.split())


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """What the rest of the simulation needs to know of a request to `/v1/messages`."""

    payload: Mapping[str, Any]
    model: str
    max_tokens: int
    stream: bool
    schema: Mapping[str, Any] | None
    schema_json: str
    thinks: bool
    shows_thoughts: bool
    stop_sequences: tuple[str, ...]
    tag: str | None


def parse_message_request(body: bytes, betas: frozenset[str] = NO_BETAS) -> MessageRequest:
    """The request in `body`, checked. Raises `ApiError`."""
    payload = _parse_object(body)
    required = ("max_tokens", "messages", "model")
    schema, schema_json = _checked(payload, body, MESSAGE_PARAMETERS, betas, required)
    name = payload["model"]
    model = MODELS[name]
    max_tokens = payload["max_tokens"]
    if max_tokens > model.max_output_tokens:
        raise ApiError(
            400,
            f"max_tokens: {max_tokens} > {model.max_output_tokens}, which is the maximum allowed "
            f"number of output tokens for {name}",
        )
    thinking = payload.get("thinking") or {}
    return MessageRequest(
        payload=payload,
        model=name,
        max_tokens=max_tokens,
        stream=payload.get("stream") or False,
        schema=schema,
        schema_json=schema_json,
        thinks=thinking.get("type", model.thinking[0]) in ("adaptive", "enabled"),
        shows_thoughts=(thinking.get("display") or model.thinking_display) == "summarized",
        stop_sequences=tuple(payload.get("stop_sequences") or ()),
        tag=check_metadata(payload.get("metadata")),
    )


def parse_count_request(
    body: bytes, betas: frozenset[str] = NO_BETAS
) -> tuple[Mapping[str, Any], str]:
    """The payload of a request to count tokens, and its schema as JSON. Raises `ApiError`."""
    payload = _parse_object(body)
    _, schema_json = _checked(payload, body, COUNT_PARAMETERS, betas, ("messages", "model"))
    return payload, schema_json


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from None
    if not isinstance(payload, dict):
        raise ApiError(400, "The request body should be a JSON object")
    return payload


def _checked(
    payload: dict[str, Any],
    body: bytes,
    known: frozenset[str],
    betas: frozenset[str],
    required: tuple[str, ...],
) -> tuple[dict[str, Any] | None, str]:
    """Check what both endpoints share; returns the output schema, and that as JSON."""
    for name in required:
        if name not in payload:
            raise ApiError(400, f"{name}: Field required")
    for name in payload:
        if name not in known and name not in unlocked_parameters(betas):
            raise ApiError(400, f"{name}: Extra inputs are not permitted")
    check_values(payload)
    model = MODELS.get(payload["model"])
    if model is None:
        raise ApiError(404, f"model: {payload['model']}")
    check_system(payload.get("system"))
    check_messages(payload["messages"])
    check_tools(payload.get("tools"), payload.get("tool_choice"), model)
    # Most requests have neither of these; looking at every block for them would cost more.
    if b"cache_control" in body:
        check_breakpoints(payload)
    check_speed(payload, betas)
    thinking_type(payload, model)
    schema = output_schema(payload)
    if schema is None:
        return None, ""
    if b"citations" in body and has_citations(payload):
        raise ApiError(400, "Citations are not supported together with output_config.format")
    return schema, _accepted(schema)


_accepted_schemas: dict[bytes, str] = {}


def _accepted(schema: dict[str, Any]) -> str:
    """The schema as JSON. Each schema is checked once: clients send few, but often."""
    # Five times faster than JSON, and from version 3 on equal values can have unequal bytes.
    key = marshal.dumps(schema, 2)
    text = _accepted_schemas.get(key)
    if text is None:
        check_schema(schema)
        text = _accepted_schemas[key] = json.dumps(schema)
    return text
