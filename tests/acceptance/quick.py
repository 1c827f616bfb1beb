"""`celery -A tests.acceptance.quick worker`: the worker, in a hurry.

Pauses between attempts are short. Calls of `extract_entities` time out after three seconds; those
of the other tasks keep their time, so that a busy machine does not time them out. A text that
begins with RAISE is met by a bug in a check.
"""

from __future__ import annotations

from typing import Any

from worker.celery import app, registry
from worker.engine import policy

__all__ = ["app"]


def buggy_check(input: Any, output: Any) -> str | None:
    if input.text.startswith("RAISE "):
        raise RuntimeError("a bug in a check")
    return None


# Frozen dataclasses, so that nobody does this by mistake.
for _task in registry.values():
    object.__setattr__(_task, "backoff", policy.Backoff(base=0.05, cap=0.2))
_summarize = registry["summarize_text"]
object.__setattr__(_summarize, "checks", [*_summarize.checks, buggy_check])
object.__setattr__(registry["extract_entities"], "call_timeout", 3.0)

# Of a rate limit that does not say when to come back.
policy._RATE_LIMIT_PAUSE = 0.5
