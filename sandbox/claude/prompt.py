"""A request's prompt as the model reads it: tools, then the system prompt, then the messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TTL_SECONDS = {"5m": 300.0, "1h": 3600.0}


@dataclass(frozen=True, slots=True)
class Segment:
    """One block of the prompt. `ttl` is set where the caller put a cache breakpoint."""

    text: str
    ttl: str | None = None


def prompt_segments(payload: Mapping[str, Any]) -> Iterator[Segment]:
    """Every block of the prompt in the order in which the cache sees them."""
    for tool in payload.get("tools") or ():
        yield Segment(json.dumps(tool), _ttl(tool))
    yield from _blocks(payload.get("system") or ())
    for message in payload["messages"]:
        yield from _blocks(message["content"])


def user_text(payload: Mapping[str, Any]) -> str:
    """All that the user said, a correction after the question: what a reply is about."""
    said = (m["content"] for m in payload["messages"] if m["role"] == "user")
    return "\n".join(segment.text for content in said for segment in _blocks(content))


def _blocks(content: Any) -> Iterator[Segment]:
    if isinstance(content, str):
        yield Segment(content)
        return
    for block in content:
        yield Segment(_block_text(block), _ttl(block))


def _block_text(block: Mapping[str, Any]) -> str:
    if block.get("type") == "text":
        return str(block["text"])
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") == "text":
        return str(source["data"])
    return json.dumps(block)


def _ttl(block: Mapping[str, Any]) -> str | None:
    return cache_ttl(block.get("cache_control"))


def cache_ttl(control: Mapping[str, Any] | None) -> str | None:
    """The lifetime that a `cache_control` asks for, which was checked before."""
    return str(control.get("ttl", "5m")) if control else None
