"""Responses, ready to be sent: replies, errors, and what a fault puts in their place."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sandbox.claude.config import Config
from sandbox.claude.delivery import Wire
from sandbox.claude.errors import ApiError, error_body
from sandbox.claude.faults import Fault
from sandbox.claude.ledger import LedgerEntry
from sandbox.claude.messages import message_body, message_events
from sandbox.claude.replies import Reply

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"

_COMMON_HEADERS = {"anthropic-organization-id": "00000000-0000-4000-8000-000000000000"}
_PLAIN_HEADERS = {"content-type": JSON, **_COMMON_HEADERS}
_STREAM_HEADERS = {
    "content-type": EVENT_STREAM,
    "cache-control": "no-cache",
    **_COMMON_HEADERS,
}

Headers = Mapping[str, str]


def json_wire(status: int, body: object, request_id: str, limits: Headers) -> Wire:
    """A response with `body` as JSON. `limits` are the account's rate-limit headers."""
    headers = {**_PLAIN_HEADERS, **limits, "request-id": request_id}
    return Wire(status, headers, (json.dumps(body).encode(),))


def error_wire(error: ApiError, request_id: str, limits: Headers) -> Wire:
    """Claude's answer to a request that it refuses."""
    body = error_body(error.status, error.message, request_id, error_code=error.error_code)
    return json_wire(error.status, body, request_id, {**limits, **error.headers})


def fault_wire(fault: Fault, status: int, request_id: str, limits: Headers) -> Wire:
    """What the fault says in place of a reply."""
    headers = _with_headers({**_PLAIN_HEADERS, **limits, "request-id": request_id}, fault)
    if isinstance(fault.body, str):
        return Wire(status, headers, (fault.body.encode(),))
    body = fault.body
    if body is None:
        body = error_body(
            status, fault.message, request_id, type_=fault.error_type, error_code=fault.error_code
        )
    return Wire(status, headers, (json.dumps(body).encode(),))


def reply_wire(
    reply: Reply, entry: LedgerEntry, config: Config, limits: Headers, fault: Fault | None = None
) -> Wire:
    """A generated reply, streamed or not, as the entry's request asked for."""
    message_id = f"msg_{entry.request_id.removeprefix('req_')}"
    common = _STREAM_HEADERS if entry.stream else _PLAIN_HEADERS
    headers = {**common, **limits, "request-id": entry.request_id}
    if fault is not None:
        headers = _with_headers(headers, fault)
    broken = fault is not None and fault.broken_json
    if not entry.stream:
        body = message_body(reply, message_id=message_id, model=entry.model, usage=entry.usage)
        return Wire(200, headers, (body[: len(body) // 2] if broken else body,))
    events = message_events(
        reply,
        message_id=message_id,
        model=entry.model,
        usage=entry.usage,
        chunk_tokens=config.chunk_tokens,
    )
    if broken:
        index = min(3, len(events) - 1)
        events[index] = events[index][: len(events[index]) * 3 // 4].rstrip() + b"\n\n"
    speed = config.tokens_per_second
    return Wire(200, headers, events, True, config.chunk_tokens / speed if speed else 0.0, entry)


def _with_headers(headers: dict[str, str], fault: Fault) -> dict[str, str]:
    return headers | {name.lower(): value for name, value in fault.headers.items()}
