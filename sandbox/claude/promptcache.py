"""Prompt caching: which part of a prompt is read from the cache, and which is written to it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sandbox.claude.models import Model
from sandbox.claude.prompt import TTL_SECONDS, Segment
from sandbox.claude.tokens import Usage, tokens_in_bytes, utf8_length


@dataclass(slots=True)
class _Entry:
    ready_at: float
    expires_at: float
    ttl: float


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The prompt up to the end of one segment."""

    digest: bytes
    tokens: int
    ttl: str | None


class PromptCache:
    """Prefixes that were marked with `cache_control`.

    An entry can be read only once the reply that wrote it has begun, so that requests sent
    side by side against a cold cache all pay for the write. A read renews the entry.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[bytes, _Entry] = {}

    def clear(self) -> None:
        """Forget every prefix."""
        self._entries.clear()

    def account(
        self, name: str, model: Model, segments: Sequence[Segment], *, ready_in: float
    ) -> Usage:
        """The input side of the usage of a request, and remember its marked prefixes.

        `ready_in`: seconds until the reply begins.
        """
        prefixes = _prefixes(name, segments)
        total = prefixes[-1].tokens if prefixes else 0
        marked = [p for p in prefixes if p.ttl and p.tokens >= model.min_cacheable_tokens]
        if not marked:
            return Usage(input_tokens=total)
        now = self._clock()
        read = self._read([p for p in prefixes if p.tokens <= marked[-1].tokens], now)
        written = {"5m": 0, "1h": 0}
        covered = read
        for prefix in marked:
            if prefix.tokens > covered and prefix.ttl is not None:
                written[prefix.ttl] += prefix.tokens - covered
                covered = prefix.tokens
                ttl = TTL_SECONDS[prefix.ttl]
                ready_at = now + ready_in
                self._entries.setdefault(prefix.digest, _Entry(ready_at, ready_at + ttl, ttl))
        return Usage(
            input_tokens=total - covered,
            cache_read_tokens=read,
            cache_write_5m_tokens=written["5m"],
            cache_write_1h_tokens=written["1h"],
        )

    def _read(self, prefixes: Sequence[_Prefix], now: float) -> int:
        for prefix in reversed(prefixes):
            entry = self._entries.get(prefix.digest)
            if entry is None or entry.ready_at > now:
                continue
            if entry.expires_at <= now:
                del self._entries[prefix.digest]
                continue
            entry.expires_at = now + entry.ttl
            return prefix.tokens
        return 0


def _prefixes(name: str, segments: Sequence[Segment]) -> list[_Prefix]:
    digest = hashlib.sha256(name.encode())
    size = 0
    prefixes = []
    for segment in segments:
        text = segment.text.encode()
        digest.update(len(text).to_bytes(8, "big") + text)
        size += utf8_length(segment.text)
        prefixes.append(_Prefix(digest.digest(), tokens_in_bytes(size), segment.ttl))
    return prefixes
