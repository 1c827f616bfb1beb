"""From a prompt version, an input and a schema to the request that says all three."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from worker.claude.request import Request
from worker.engine.prompts import Prompt


@dataclass(frozen=True)
class OutputSchema:
    """The schema of a task's output; `text` is how it stands in system prompts."""

    text: str

    @cached_property
    def document(self) -> dict[str, Any]:
        """The schema as it goes into `output_config`."""
        parsed: dict[str, Any] = json.loads(self.text)
        return parsed

    @cached_property
    def sha256(self) -> str:
        """The hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def render_request(
    prompt: Prompt, model: str, values: Mapping[str, Any], schema: OutputSchema, user_id: str | None
) -> Request:
    """The request for an input with these `values`; raises whatever the template raises."""
    system, user = prompt.render(values, schema.text)
    return Request(
        model=model,
        max_tokens=prompt.file.max_tokens,
        system=system,
        user=user,
        schema=schema.document,
        effort=prompt.file.effort,
        user_id=user_id,
        cache=prompt.file.cache,
    )
