"""What can be set at start, and changed at run time."""

from __future__ import annotations

import re
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, field_validator

EVERY_CLASS = "*"
_MODEL_CLASS = re.compile(r"claude-[a-z]+-\d+")


class ClassLimits(BaseModel):
    """What one model class may use a minute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int = Field(gt=0)
    """Requests a minute."""

    input_tokens: int = Field(gt=0)
    """Tokens of input a minute, cache writes included and cache reads not."""

    output_tokens: int = Field(gt=0)
    """Tokens generated a minute; `max_tokens` does not count."""


class Ramp(BaseModel):
    """How fast the use of a model class may grow."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = Field(default=60.0, gt=0)
    """Length of the two windows that are compared: the last seconds, and as many before them."""

    factor: float = Field(default=2.0, gt=1)
    """The last window may have so many times the requests of the one before it."""

    free_requests: int = Field(default=10, ge=1)
    """Requests that a window may always have, so that there is a way up from nothing."""


class Config(BaseModel):
    """How the simulated Claude behaves when no fault strikes."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    latency: float = Field(default=0.0, ge=0)
    """Seconds until the first token."""

    tokens_per_second: float | None = Field(default=None, gt=0)
    """Output speed after the first token. None = everything at once."""

    chunk_tokens: int = Field(default=8, ge=1)
    """Tokens in one `content_block_delta` of a stream."""

    thinking_tokens: int = Field(default=0, ge=0)
    """Tokens that the model thinks before it answers, when a request does not turn that off.

    They are billed as output and count toward `max_tokens`.
    """

    api_key: str | None = None
    """The only key accepted. None = any key that is not empty."""

    limits: dict[str, ClassLimits] | None = None
    """Rate limits by model class (`claude-sonnet-5` for `claude-sonnet-5-5`), `*` for the others.

    Each class has buckets of its own. None = no limit, and constant headers.
    """

    burst_seconds: float = Field(default=60.0, gt=0)
    """How much a bucket holds: what its limit allows in so many seconds."""

    ramp: Ramp | None = None
    """An acceleration limit for each model class. None = none."""

    overload: int | None = Field(default=None, ge=0)
    """Requests that are answered at a time; one more is a 529. None = any number."""

    spend_limit_usd: Decimal | None = Field(default=None, ge=0)
    """Once so many US dollars are billed, every request is a 400. None = no cap."""

    cache_speed: float = Field(default=1.0, gt=0)
    """How many times faster than real time the entries of the prompt cache age."""

    batch_seconds: float = Field(default=0.0, ge=0)
    """How long a batch takes, by the batches' clock; its items are processed evenly over it."""

    batch_speed: float = Field(default=1.0, gt=0)
    """How many times faster than real time the batches' clock runs."""

    @field_validator("limits")
    @classmethod
    def _classes(cls, limits: dict[str, ClassLimits] | None) -> dict[str, ClassLimits] | None:
        for name in limits or ():
            if name != EVERY_CLASS and not _MODEL_CLASS.fullmatch(name):
                raise ValueError(f"{name!r} is not a model class like 'claude-sonnet-5', nor '*'")
        return limits


def model_class(model: str) -> str:
    """The class that a model's rate limits belong to: its family and major version."""
    found = _MODEL_CLASS.match(model)
    return found[0] if found else model
