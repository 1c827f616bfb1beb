"""Tokens: how they are estimated, and what a request used of them.

The estimate is ceil(bytes of UTF-8 / 4), of all text together: crude, but deterministic, and about
right for English prose.
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_TOKEN = 4


def utf8_length(text: str) -> int:
    """Bytes that `text` takes as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def tokens_in_bytes(size: int) -> int:
    """Tokens in `size` bytes of text, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def estimate_tokens(text: str) -> int:
    """Tokens in `text`: a quarter of its bytes of UTF-8, rounded up."""
    return tokens_in_bytes(utf8_length(text))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. `input_tokens` excludes what was read from or written to the cache."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt, cached or not."""
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
        )

    @property
    def limited_tokens(self) -> int:
        """The input that rate limits count: all but what is read from the cache."""
        return self.input_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens

    def as_message_usage(self) -> dict[str, object]:
        """The `usage` of a message, and of `message_start`."""
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.cache_write_5m_tokens + self.cache_write_1h_tokens,
            "cache_read_input_tokens": self.cache_read_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.cache_write_5m_tokens,
                "ephemeral_1h_input_tokens": self.cache_write_1h_tokens,
            },
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"thinking_tokens": self.thinking_tokens},
            "service_tier": "standard",
            "inference_geo": "global",
        }

    def as_delta_usage(self) -> dict[str, object]:
        """The cumulative `usage` of `message_delta`, which has no split of cache writes by TTL."""
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.cache_write_5m_tokens + self.cache_write_1h_tokens,
            "cache_read_input_tokens": self.cache_read_tokens,
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"thinking_tokens": self.thinking_tokens},
        }
