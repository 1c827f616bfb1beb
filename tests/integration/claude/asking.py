"""Asking the simulated Claude through the real SDK, and checking what it sends."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Literal

import httpx2
from anthropic import Anthropic, transform_schema
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import BaseModel, Field, TypeAdapter

from sandbox.claude.client import SimulatedClaude

MODEL = "claude-sonnet-5-5"
CLASS = "claude-sonnet-5"
HEADERS = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
TEXT = (
    "<document>The harbour of Lorient was dredged in March. Fishing boats used the northern quay "
    "while the work went on. The council expects larger ferries by next summer, and more visitors "
    "with them. Some residents fear the noise.</document> Analyse the document."
)


class Severity(StrEnum):
    LOW = "low"
    HIGH = "high"


class Risk(BaseModel):
    label: str = Field(max_length=30)
    severity: Severity
    confidence: float = Field(ge=0, le=1)
    quotes: list[str] = Field(min_length=1, max_length=2)


class Analysis(BaseModel):
    title: str
    summary: str = Field(min_length=20)
    kind: Literal["report", "letter"]
    risks: list[Risk]
    reviewer: str | None
    pages: int | None = Field(default=None, ge=1, le=9)


ANALYSIS: Any = {"format": {"type": "json_schema", "schema": transform_schema(Analysis)}}

_client = httpx2.Client(trust_env=False, timeout=30)
_events: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def request(text: str = TEXT, **options: Any) -> dict[str, Any]:
    """The parameters of a request with `text` as the user's message."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "max_tokens": 2000, "messages": messages} | options


def ask(sdk: Anthropic, text: str = TEXT, **options: Any) -> Message:
    message = sdk.messages.create(**request(text, **options))
    assert isinstance(message, Message)
    return message


def stream(sdk: Anthropic, text: str = TEXT, **options: Any) -> list[Any]:
    return list(sdk.messages.create(**request(text, **options), stream=True))


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@contextmanager
def begun(claude: SimulatedClaude, body: Any) -> Iterator[None]:
    """A request that is sent and whose reply nobody reads; its client leaves at the end."""
    connection = http.client.HTTPConnection(claude.url.removeprefix("http://"))
    connection.request("POST", "/v1/messages", json.dumps(body), HEADERS)
    yield
    connection.close()


def post(claude: SimulatedClaude, body: Any, **headers: str) -> httpx2.Response:
    """A request as it is, without the SDK's own checks; `_` in a header's name means `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _client.post(f"{claude.url}/v1/messages", headers=HEADERS | named, json=body)


def checked_message(body: Any) -> Message:
    """`body` as the SDK's `Message`, with nothing in it that the SDK does not know."""
    message = Message.model_validate(body, strict=True)
    assert_known(message)
    return message


def checked_events(raw: str) -> list[Any]:
    """The events of a stream's body as the SDK's types, each of them complete and known."""
    events = []
    for chunk in raw.removesuffix("\n\n").split("\n\n"):
        name, data = (line.partition(": ")[2] for line in chunk.split("\n"))
        body = json.loads(data)
        assert body["type"] == name
        if name == "ping":
            assert body == {"type": "ping"}
            continue
        event = _events.validate_python(body, strict=True)
        assert_known(event)
        events.append(event)
    return events


def assert_known(model: BaseModel) -> None:
    """The SDK keeps fields that it does not know: here there must be none, at any depth."""
    assert not model.model_extra, f"{type(model).__name__} has no {set(model.model_extra)}"
    for child in _children(model):
        assert_known(child)


def _children(model: BaseModel) -> Iterator[BaseModel]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, BaseModel):
                yield item
