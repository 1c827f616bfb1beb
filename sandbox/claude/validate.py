"""Requests as Claude checks them: what comes back is either a `MessageRequest` or an `ApiError`."""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.claude.errors import ApiError
from sandbox.claude.models import MODELS
from sandbox.claude.schema_rules import check_schema

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_CACHE_BREAKPOINTS = 4

_COUNT_PARAMETERS = """
cache_control messages model output_config speed system thinking tool_choice tools
"""
_MESSAGE_PARAMETERS = """
container diagnostics inference_geo max_tokens metadata service_tier stop_sequences stream
"""
COUNT_PARAMETERS = frozenset(_COUNT_PARAMETERS.split())
MESSAGE_PARAMETERS = COUNT_PARAMETERS | frozenset(_MESSAGE_PARAMETERS.split())
THINKING_TYPES = frozenset(("enabled", "adaptive", "between_tools", "disabled"))

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """What the rest of the simulation needs to know of a request to `/v1/messages`."""

    payload: Mapping[str, Any]
    model: str
    max_tokens: int
    stream: bool
    schema: Mapping[str, Any] | None
    schema_json: str
    thinking: str | None
    stop_sequences: tuple[str, ...]
    tag: str | None


def parse_message_request(body: bytes) -> MessageRequest:
    """The request in `body`, checked. Raises `ApiError`."""
    payload = _parse_object(body)
    _check_parameters(payload, MESSAGE_PARAMETERS, required=("max_tokens", "messages", "model"))
    model = MODELS[payload["model"]]
    max_tokens = payload["max_tokens"]
    if max_tokens > model.max_output_tokens:
        raise ApiError(
            400,
            f"max_tokens: {max_tokens} > {model.max_output_tokens}, which is the maximum allowed "
            f"number of output tokens for {payload['model']}",
        )
    schema = _schema(payload)
    return MessageRequest(
        payload=payload,
        model=payload["model"],
        max_tokens=max_tokens,
        stream=payload.get("stream") or False,
        schema=schema,
        schema_json=_accepted(schema) if schema is not None else "",
        thinking=_thinking(payload),
        stop_sequences=tuple(payload.get("stop_sequences") or ()),
        tag=(payload.get("metadata") or {}).get("user_id"),
    )


def parse_count_request(body: bytes) -> tuple[Mapping[str, Any], str]:
    """The payload of a request to count tokens, and its schema as JSON. Raises `ApiError`."""
    payload = _parse_object(body)
    _check_parameters(payload, COUNT_PARAMETERS, required=("messages", "model"))
    schema = _schema(payload)
    return payload, _accepted(schema) if schema is not None else ""


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from None
    if not isinstance(payload, dict):
        raise ApiError(400, "The request body should be a JSON object")
    return payload


def _check_parameters(
    payload: dict[str, Any], known: frozenset[str], *, required: tuple[str, ...]
) -> None:
    for name in required:
        if name not in payload:
            raise ApiError(400, f"{name}: Field required")
    for name in payload:
        if name not in known:
            raise ApiError(400, f"{name}: Extra inputs are not permitted")
    for name, value in payload.items():
        if name in _CHECKS:
            is_valid, message = _CHECKS[name]
            if not is_valid(value):
                raise ApiError(400, f"{name}: {message}")
    if payload["model"] not in MODELS:
        raise ApiError(404, f"model: {payload['model']}")
    _check_messages(payload["messages"])
    breakpoints = _breakpoints(payload)
    if breakpoints > MAX_CACHE_BREAKPOINTS:
        raise ApiError(
            400,
            f"A maximum of {MAX_CACHE_BREAKPOINTS} blocks with cache_control may be provided. "
            f"Found {breakpoints}.",
        )


def _check_messages(messages: list[Any]) -> None:
    if not messages:
        raise ApiError(400, "messages: at least one message is required")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise ApiError(400, f"{where}: Input should be an object")
        for name in ("role", "content"):
            if name not in message:
                raise ApiError(400, f"{where}.{name}: Field required")
        if message["role"] not in ("user", "assistant", "system"):
            raise ApiError(400, f"{where}.role: Input should be 'user' or 'assistant'")
        _check_content(where, message["content"])
    if messages[-1]["role"] == "assistant":
        raise ApiError(
            400,
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message.",
        )


def _check_content(where: str, content: Any) -> None:
    if not content:
        raise ApiError(400, f"{where}: all messages must have non-empty content")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise ApiError(400, f"{where}.content: Input should be a valid string or list")
    for index, block in enumerate(content):
        if not isinstance(block, dict) or "type" not in block:
            raise ApiError(400, f"{where}.content.{index}.type: Field required")
        if block["type"] == "text" and not (isinstance(block.get("text"), str) and block["text"]):
            raise ApiError(400, "messages: text content blocks must be non-empty")


def _breakpoints(payload: Mapping[str, Any]) -> int:
    contents = [message["content"] for message in payload["messages"]]
    lists = [payload.get("tools") or [], payload.get("system"), *contents]
    blocks = (block for blocks in lists if isinstance(blocks, list) for block in blocks)
    marked = sum(1 for block in blocks if block.get("cache_control"))
    return marked + bool(payload.get("cache_control"))


def _schema(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    config = payload.get("output_config") or {}
    for name in config:
        if name not in ("effort", "format"):
            raise ApiError(400, f"output_config.{name}: Extra inputs are not permitted")
    format_ = config.get("format")
    if format_ is None:
        return None
    if not isinstance(format_, dict) or format_.get("type") != "json_schema":
        raise ApiError(400, "output_config.format.type: Input should be 'json_schema'")
    if "schema" not in format_:
        raise ApiError(400, "output_config.format.schema: Field required")
    schema: dict[str, Any] = format_["schema"]
    return schema


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


def _thinking(payload: Mapping[str, Any]) -> str | None:
    thinking = payload.get("thinking")
    if thinking is None:
        return None
    type_ = thinking.get("type")
    if type_ not in THINKING_TYPES:
        raise ApiError(400, f"thinking.type: Input should be one of {sorted(THINKING_TYPES)}")
    if type_ == "enabled":
        budget = thinking.get("budget_tokens", 0)
        if budget < 1024:
            raise ApiError(
                400, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
            )
        if budget >= payload.get("max_tokens", budget + 1):
            raise ApiError(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    return str(type_)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or _is_blocks(value)


def _is_blocks(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(block, dict) for block in value)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_metadata(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("user_id"), str | None)


_CHECKS: dict[str, tuple[Check, str]] = {
    "model": (lambda value: isinstance(value, str), "Input should be a valid string"),
    "max_tokens": (_is_count, "Input should be a valid integer, greater than or equal to 0"),
    "messages": (lambda value: isinstance(value, list), "Input should be a valid list"),
    "stream": (lambda value: isinstance(value, bool | None), "Input should be a valid boolean"),
    "system": (_is_text, "Input should be a valid string or list of text blocks"),
    "metadata": (_is_metadata, "Input should be an object with a string user_id"),
    "output_config": (lambda value: isinstance(value, dict | None), "Input should be an object"),
    "thinking": (lambda value: isinstance(value, dict | None), "Input should be an object"),
    "tools": (_is_blocks, "Input should be a valid list of tools"),
    "stop_sequences": (_is_strings, "Input should be a valid list of strings"),
    "speed": (lambda value: value in (None, "standard"), "Input should be 'standard'"),
}
