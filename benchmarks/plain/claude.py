"""The article's retry loop and prompt module, in Python."""

from __future__ import annotations

import json
import random
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from anthropic import APIConnectionError, APIStatusError, transform_schema

from tasks.classify_ticket import Output

T = TypeVar("T")

# The same words go to Claude on both sides, so the same request is made and answered.
_FILE = Path(__file__).parents[2] / "prompts" / "classify_ticket" / "1.0.toml"
_PROMPT = tomllib.loads(_FILE.read_text(encoding="utf-8"))
_SCHEMA = transform_schema(Output)

VERSION = _FILE.stem
MODEL: str = _PROMPT["model"]
MAX_TOKENS: int = _PROMPT["max_tokens"]
OUTPUT_CONFIG: dict[str, Any] = {"format": {"type": "json_schema", "schema": _SCHEMA}}
SYSTEM: str = (
    _PROMPT["system"]
    .strip()
    .replace("{{ output_schema }}", json.dumps(_SCHEMA, ensure_ascii=False, separators=(",", ":")))
)


def template(subject: str, body: str, categories: Sequence[str]) -> str:
    """The user message."""
    listed = "\n- ".join(categories)
    return (
        f"<categories>\n- {listed}\n</categories>\n\n"
        f"<ticket>\n<subject>{subject}</subject>\n<body>\n{body}\n</body>\n</ticket>\n\n"
        "Classify the ticket and reply with the JSON object only."
    )


ERRORS = (APIStatusError, APIConnectionError)


def call_with_retry(call: Callable[[], T], max_retries: int = 3) -> T:
    """Try `call` again after 429, 529 and lost connections, with backoff and jitter."""
    for attempt in range(max_retries):
        try:
            return call()
        except ERRORS as error:
            time.sleep(delay_after(error, attempt))
    return call()


def delay_after(
    error: APIStatusError | APIConnectionError, attempt: int, base_delay: float = 1.0
) -> float:
    """Seconds to wait before the next try; raises `error` if another would not help."""
    if isinstance(error, APIStatusError) and not (
        error.status_code in (429, 529) or error.type == "overloaded_error"
    ):
        raise error
    delay = base_delay * 2**attempt
    return delay + delay * 0.5 * random.random()
