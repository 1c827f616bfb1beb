"""What is sent to Claude."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

CacheLifetime = Literal["5m", "1h"]


class Correction(NamedTuple):
    """A reply that could not be used, and what Claude is told about it."""

    bad_output: str
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent to `POST /v1/messages`.

    `schema` is what `worker.claude.schema.for_api` made of the output model. `user_id` goes out
    as `metadata.user_id`: it must be an opaque id, never a name or an address. `cache` keeps the
    system prompt, which is the same for every input, in Claude's prompt cache for so long; a prefix
    shorter than the model's minimum (512 to 4,096 tokens) is not cached, and nothing says so but
    the usage.
    """

    model: str
    max_tokens: int
    system: str
    user: str
    schema: dict[str, Any]
    effort: str | None = None
    user_id: str | None = None
    cache: CacheLifetime | None = None
    correction: Correction | None = None

    def input_characters(self) -> int:
        """The length of what this request sends, without a correction."""
        return len(self.system) + len(self.user) + len(json.dumps(self.schema))

    def prompt_characters(self) -> int:
        """The length of all texts in the prompt, a correction included."""
        return len(self.system) + len(self.user) + sum(map(len, self.correction or ()))

    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of the SDK's `messages.create`."""
        output_config: dict[str, Any] = {"format": {"type": "json_schema", "schema": self.schema}}
        if self.effort:
            output_config["effort"] = self.effort
        parameters: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "system": self._system(),
            "messages": self._messages(),
            "output_config": output_config,
        }
        if self.user_id:
            parameters["metadata"] = {"user_id": self.user_id}
        return parameters

    def _system(self) -> str | list[dict[str, Any]]:
        if self.cache is None:
            return self.system
        control = {"type": "ephemeral", "ttl": self.cache}
        return [{"type": "text", "text": self.system, "cache_control": control}]

    def _messages(self) -> list[dict[str, str]]:
        messages = [{"role": "user", "content": self.user}]
        if self.correction is not None:
            reply, instruction = self.correction
            messages += [
                {"role": "assistant", "content": reply},
                {"role": "user", "content": instruction},
            ]
        return messages
