"""What Claude sent back, reduced to what the engine needs – the same for every transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

#: As much as the usage table's columns hold: what cannot be stored is no message.
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]


class _Wire(BaseModel):
    """Unknown keys are the API's right to add; a wrong type is an error."""

    model_config = ConfigDict(extra="ignore")


class CacheCreation(_Wire):
    ephemeral_5m_input_tokens: Count = 0
    ephemeral_1h_input_tokens: Count = 0


class OutputDetails(_Wire):
    thinking_tokens: Count = 0


class WireUsage(_Wire):
    """The `usage` object of a message, as the API sends it."""

    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputDetails | None = None
    service_tier: Name | None = None


class Block(_Wire):
    type: str
    text: str | None = None


class StopDetails(_Wire):
    """Why a refusal was one, where the API says."""

    category: str | None = None


class WireMessage(_Wire):
    """The body of a 200 from `POST /v1/messages`, as far as it is used here."""

    model: Name
    content: list[Block]
    stop_reason: Name | None = None
    stop_details: StopDetails | None = None
    usage: WireUsage


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a call is billed for. The four kinds of input do not overlap."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    thinking: int = 0

    @classmethod
    def from_usage(cls, usage: WireUsage) -> Tokens:
        """From the API's `usage`; cache writes without a TTL split count as 5-minute ones."""
        split = usage.cache_creation
        written = usage.cache_creation_input_tokens or 0
        details = usage.output_tokens_details
        return cls(
            input=usage.input_tokens,
            cache_read=usage.cache_read_input_tokens or 0,
            cache_write_5m=split.ephemeral_5m_input_tokens if split else written,
            cache_write_1h=split.ephemeral_1h_input_tokens if split else 0,
            output=usage.output_tokens,
            thinking=details.thinking_tokens if details else 0,
        )

    def uncached(self) -> Tokens:
        """The same, had there been no prompt cache."""
        read_or_written = self.cache_read + self.cache_write_5m + self.cache_write_1h
        return Tokens(self.input + read_or_written, output=self.output, thinking=self.thinking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A complete reply. `text` joins all text blocks: it may follow thinking, or be split."""

    text: str
    stop_reason: str | None
    model: str
    tokens: Tokens
    service_tier: str | None
    request_id: str | None
    latency_ms: int
    first_token_ms: int | None = None
    refusal_category: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class MalformedReply(ValueError):
    """What arrived is no message of the API's – but it did arrive, and may have been billed."""

    def __init__(self, how: str, request_id: str | None) -> None:
        super().__init__(how)
        self.request_id = request_id


def read_message(body: bytes, *, headers: Mapping[str, str], latency_ms: int) -> Reply:
    """Parse the body of a 200.

    Raises:
        MalformedReply: it is not a message (broken JSON, HTML, missing keys).
    """
    try:
        message = WireMessage.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "(all)"
        how = f"no message: {where}: {first['msg']}"
        raise MalformedReply(how, headers.get("request-id")) from None
    return Reply(
        text="".join(block.text or "" for block in message.content if block.type == "text"),
        stop_reason=message.stop_reason,
        model=message.model,
        tokens=Tokens.from_usage(message.usage),
        service_tier=message.usage.service_tier,
        request_id=headers.get("request-id"),
        latency_ms=latency_ms,
        refusal_category=message.stop_details.category if message.stop_details else None,
        headers=headers,
    )


def describe(reply: Reply) -> dict[str, Any]:
    """What may be logged of a reply: no text."""
    return {
        "model": reply.model,
        "stop_reason": reply.stop_reason,
        "input_tokens": reply.tokens.input,
        "output_tokens": reply.tokens.output,
        "latency_ms": reply.latency_ms,
    }
