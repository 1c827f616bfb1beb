"""The body of a request as the simulation needs it: checked, its prompt laid out and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web

from sandbox.claude.errors import ApiError
from sandbox.claude.models import MODELS
from sandbox.claude.prompt import Segment, cache_ttl, prompt_segments
from sandbox.claude.tokens import tokens_in_bytes, utf8_length
from sandbox.claude.validate import MessageRequest, parse_count_request, parse_message_request

MALFORMED = (AttributeError, KeyError, TypeError)
"""Nested parameters are not all checked one by one: a wrong type in them ends as one of these."""


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The body of a request. Raises a 413 for one that is longer than `limit` bytes."""
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        body = None
    if body is None or len(body) > limit:
        raise ApiError(413, f"Request exceeds the maximum size of {limit // 1024**2} MB")
    return body


def understood(body: bytes, betas: frozenset[str]) -> tuple[MessageRequest, Sequence[Segment], int]:
    """The request, its prompt with the schema first, and the prompt's tokens.

    Raises `ApiError` for what Claude would refuse.
    """
    try:
        message = parse_message_request(body, betas)
        segments = [Segment(message.schema_json), *prompt_segments(message.payload)]
    except MALFORMED as error:
        raise _malformed(error) from error
    tokens, limit = _prompt_tokens(segments), MODELS[message.model].context_tokens
    if tokens > limit:
        raise ApiError(400, f"prompt is too long: {tokens} tokens > {limit} maximum")
    if ttl := cache_ttl(message.payload.get("cache_control")):
        segments[-1] = replace(segments[-1], ttl=ttl)
    return message, segments, tokens


def counted(body: bytes, betas: frozenset[str]) -> int:
    """The tokens of a request to count them. Raises `ApiError`."""
    try:
        payload, schema_json = parse_count_request(body, betas)
        return _prompt_tokens([Segment(schema_json), *prompt_segments(payload)])
    except MALFORMED as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> ApiError:
    return ApiError(400, f"The request is malformed: {error!r}")


def _prompt_tokens(segments: Sequence[Segment]) -> int:
    return tokens_in_bytes(sum(utf8_length(segment.text) for segment in segments))
