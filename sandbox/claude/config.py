"""What can be set at start, and changed at run time."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


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
    """Tokens that the model thinks before it answers, when a request does not disable thinking.

    They are billed as output and count toward `max_tokens`.
    """

    api_key: str | None = None
    """The only key accepted. None = any key that is not empty."""
