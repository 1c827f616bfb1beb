"""Prompt caching: which part of a prompt is read from the cache, and which is written to it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sandbox.claude.models import Model
from sandbox.claude.prompt import TTL_SECONDS, Segment
from sandbox.claude.tokens import Usage, tokens_in_bytes, utf8_length

LOOKBACK_BLOCKS = 20
"""How many blocks before a breakpoint are looked up for an entry that an earlier request wrote."""


@dataclass(slots=True)
class _Entry:
    """`used_at` is when it was written or last read, on the cache's clock."""

    ready_at: float
    used_at: float
    ttl: float


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The prompt up to the end of one segment."""

    digest: bytes
    tokens: int
    ttl: str | None


@dataclass(frozen=True, slots=True)
class CachePlan:
    """What the cache will do for one request, and the input side of its usage."""

    usage: Usage
    renewed: tuple[_Prefix, ...] = ()
    written: tuple[_Prefix, ...] = ()


class PromptCache:
    """Prefixes that were marked with `cache_control`.

    An entry can be read only once the reply that wrote it has begun, so that requests sent
    side by side against a cold cache all pay for the write. A read renews the entry and those
    within it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.speed = 1.0
        """How many times faster than the clock entries age."""
        self._clock = clock
        self._entries: dict[bytes, _Entry] = {}

    def clear(self) -> None:
        """Forget every prefix."""
        self._entries.clear()

    def age(self, seconds: float) -> None:
        """Make every entry so many seconds of its lifetime older."""
        for entry in self._entries.values():
            entry.used_at -= seconds / self.speed

    def plan(self, name: str, model: Model, segments: Sequence[Segment]) -> CachePlan:
        """What a request to the model `name` would read and write; nothing changes yet."""
        prefixes = _prefixes(name, segments)
        total = prefixes[-1].tokens if prefixes else 0
        marks = [
            index
            for index, prefix in enumerate(prefixes)
            if prefix.ttl and prefix.tokens >= model.min_cacheable_tokens
        ]
        read = self._readable(prefixes, marks)
        covered = read_tokens = read.tokens if read else 0
        counts = {"5m": 0, "1h": 0}
        written = []
        for prefix in (prefixes[index] for index in marks):
            if prefix.ttl is not None and prefix.tokens > covered:
                counts[prefix.ttl] += prefix.tokens - covered
                covered = prefix.tokens
                written.append(prefix)
        usage = Usage(
            input_tokens=total - covered,
            cache_read_tokens=read_tokens,
            cache_write_5m_tokens=counts["5m"],
            cache_write_1h_tokens=counts["1h"],
        )
        within = (prefixes[index] for index in marks if prefixes[index].tokens < read_tokens)
        return CachePlan(usage, (read, *within) if read else (), tuple(written))

    def commit(self, plan: CachePlan, *, ready_in: float) -> None:
        """The request is answered: renew what it reads, remember what it writes.

        `ready_in`: seconds until the reply begins, and what it wrote can be read.
        """
        if not (plan.renewed or plan.written):
            return
        now = self._clock()
        for prefix in plan.renewed:
            entry = self._entries.get(prefix.digest)
            if entry is not None and self._lives(entry, now):
                entry.used_at = max(now, entry.used_at)
        for prefix in plan.written:
            entry = self._entries.get(prefix.digest)
            ready_at = now + ready_in
            if entry is not None and self._lives(entry, now):
                entry.ready_at = min(entry.ready_at, ready_at)
            elif prefix.ttl is not None:
                self._entries[prefix.digest] = _Entry(ready_at, ready_at, TTL_SECONDS[prefix.ttl])

    def _readable(self, prefixes: Sequence[_Prefix], marks: Sequence[int]) -> _Prefix | None:
        """The longest prefix at, or not too far before, a breakpoint that can be read."""
        now = self._clock()
        near = {
            index for mark in marks for index in range(max(0, mark - LOOKBACK_BLOCKS), mark + 1)
        }
        for index in sorted(near, reverse=True):
            entry = self._entries.get(prefixes[index].digest)
            if entry is not None and entry.ready_at <= now and self._lives(entry, now):
                return prefixes[index]
        return None

    def _lives(self, entry: _Entry, now: float) -> bool:
        return (now - entry.used_at) * self.speed < entry.ttl


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
