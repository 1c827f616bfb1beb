"""`celery -A tests.chaos.altered worker`: the worker with a task that misbehaves on request.

What a text says decides: KILL ends the process when the reply is judged, KILL_EARLY before there is
a call, RAISE and RAISE_EARLY are bugs in a task's own code. Calls time out after two seconds.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from worker.celery import app, registry

__all__ = ["app"]

CALL_TIMEOUT = 2.0

_task = registry["summarize_text"]
_parse_input = _task.parse_input


def misbehave(input: Any, output: Any) -> str | None:
    if input.text.startswith("KILL "):
        os.kill(os.getpid(), signal.SIGKILL)
    if input.text.startswith("RAISE "):
        raise RuntimeError("a bug in a check")
    return None


def parse_input(values: Any) -> Any:
    if values["text"].startswith("KILL_EARLY "):
        os.kill(os.getpid(), signal.SIGKILL)
    if values["text"].startswith("RAISE_EARLY "):
        raise RuntimeError("a bug in a validator")
    return _parse_input(values)


# A frozen dataclass, so that nobody does this by mistake.
object.__setattr__(_task, "checks", [*_task.checks, misbehave])
object.__setattr__(_task, "call_timeout", CALL_TIMEOUT)
object.__setattr__(_task, "parse_input", parse_input)
