"""What a setting may be: URLs and JSON, each refused in words that name what was expected."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError


def _postgres_url(value: object) -> object:
    example = "expected something like postgresql://user:password@host:5432/database"
    try:
        url = make_url(str(value))
    except (ArgumentError, ValueError):
        raise PydanticCustomError("url", f"is malformed: {example}") from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise PydanticCustomError("url", f"must name a Postgres database: {example}")
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _network_url(value: object, schemes: tuple[str, ...], example: str) -> SplitResult:
    malformed = PydanticCustomError("url", "is malformed: expected {example}", {"example": example})
    try:
        url = urlsplit(str(value))
        _ = url.port
    except ValueError:  # an unclosed bracket, a port that is none
        raise malformed from None
    if url.scheme not in schemes or not url.hostname:
        raise malformed
    return url


def _redis_url(value: object) -> object:
    url = _network_url(
        value, ("redis", "rediss"), "redis://host:6379/0 (for Valkey too) or rediss://…"
    )
    if not re.fullmatch(r"/?\d*", url.path):
        raise PydanticCustomError(
            "url", "is malformed: what follows the host is a number, as in /0"
        )
    return str(value)


def _broker_url(value: object) -> object:
    if str(value).startswith("redis"):
        return _redis_url(value)
    _network_url(value, ("amqp", "amqps", "pyamqp"), "redis://host:6379/0 or amqp://host:5672//")
    return str(value)


def _http_url(value: object) -> object:
    _network_url(value, ("http", "https"), "https://host")
    return str(value)


def _secret_http_url(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    _network_url(text, ("http", "https"), "https://host/path")
    if not re.fullmatch(r"[!-~]+", text):
        raise PydanticCustomError("url", "is malformed: it has characters that must be %-encoded")
    return text


def _webhook_secrets(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    for secret in text.split():
        try:
            key = b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            key = b""
        if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
            raise PydanticCustomError(
                "secret",
                "is malformed: expected whsec_ and 24 to 64 bytes in base64, several separated by "
                "spaces; `echo whsec_$(openssl rand -base64 32)` makes one",
            )
    return text


class LimitCaps(BaseModel):
    """How much of a model class may be used a minute; None where only Claude's own limit counts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests: int | None = Field(None, gt=0, le=10**12)
    input_tokens: int | None = Field(None, gt=0, le=10**12)
    output_tokens: int | None = Field(None, gt=0, le=10**12)


_CAPS = TypeAdapter(dict[str, LimitCaps])
_MOST_RUNNING = TypeAdapter(dict[str, Annotated[int, Field(gt=0)]])


def _json(adapter: TypeAdapter[Any], example: str) -> BeforeValidator:
    """A setting that is JSON: what is wrong with it, where, and what it should look like."""

    def validate(value: object) -> object:
        try:
            if isinstance(value, str):
                return adapter.validate_json(value)
            return adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise PydanticCustomError(
                "json",
                "is malformed{where}: {problem}; expected something like {example}",
                {
                    "where": f" at {where}" if where else "",
                    "problem": problem["msg"][0].lower() + problem["msg"][1:],
                    "example": example,
                },
            ) from None

    return BeforeValidator(validate)


MostRunning = Annotated[
    Mapping[str, int], NoDecode, _json(_MOST_RUNNING, '{"analyze_document": 50}')
]
Limits = Annotated[
    Mapping[str, LimitCaps],
    NoDecode,
    _json(_CAPS, '{"claude-sonnet-5": {"requests": 1000, "input_tokens": 400000}}'),
]
PostgresUrl = Annotated[str, BeforeValidator(_postgres_url)]
RedisUrl = Annotated[str, BeforeValidator(_redis_url)]
BrokerUrl = Annotated[str, BeforeValidator(_broker_url)]
HttpUrl = Annotated[str, BeforeValidator(_http_url)]
WebhookSecrets = Annotated[SecretStr, BeforeValidator(_webhook_secrets)]
SecretHttpUrl = Annotated[SecretStr, BeforeValidator(_secret_http_url)]


_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")


def _origins(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = tuple(part.strip() for part in value.split(",") if part.strip())
    for origin in found:
        if not _ORIGIN.fullmatch(origin):
            raise PydanticCustomError(
                "origins",
                "is malformed: expected origins such as https://app.example.com, with commas",
            )
    return found


Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]
