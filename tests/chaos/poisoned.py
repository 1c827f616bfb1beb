"""`celery -A tests.chaos.poisoned worker`: a worker that the reply to a text with POISON kills."""

from __future__ import annotations

import os
import signal
from typing import Any

from worker.celery import app, registry

__all__ = ["app"]


def deadly(input: Any, output: Any) -> str | None:
    if "POISON" in input.text:
        os.kill(os.getpid(), signal.SIGKILL)
    return None


# A frozen dataclass, so that nobody does this by mistake.
_summarize = registry["summarize_text"]
object.__setattr__(_summarize, "checks", [deadly, *_summarize.checks])
