"""The beginning of a request that Claude keeps in its prompt cache."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from worker.claude.request import CacheLifetime, Request
from worker.engine.prompts import Prompt
from worker.engine.rendering import OutputSchema

#: No model caches fewer than 512 tokens, and a token is hardly ever less than two characters.
_LEAST_CHARACTERS = 1024


class Prefix(NamedTuple):
    """What tells the cached beginnings of requests apart.

    The version's hash stands for its system prompt, which is the same for every input. Two versions
    with the same system prompt count as two prefixes; who leads for the second finds it warm.
    """

    prompt_sha256: str
    schema_sha256: str
    model: str
    lifetime: CacheLifetime

    @property
    def key(self) -> str:
        """Its name in Redis: short, and of nobody's making."""
        return hashlib.sha256("\0".join(self).encode()).hexdigest()


def prefix_of(prompt: Prompt, schema: OutputSchema, request: Request) -> Prefix | None:
    """The prefix of a request that is to be cached; None if nothing is, or surely too little."""
    if request.cache is None or len(request.system) + len(schema.text) < _LEAST_CHARACTERS:
        return None
    return Prefix(prompt.sha256, schema.sha256, request.model, request.cache)
