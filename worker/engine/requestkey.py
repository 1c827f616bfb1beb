"""The key of a request: jobs with the same one may have one answer between them.

It covers everything that reaches Claude but `metadata.user_id`, and what becomes of the reply: the
task, whose checks look at it, and the input, which they see. Two inputs may render to the same
text; they are two requests all the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any

from worker.claude.request import Request

#: Part of every key: another number makes all older results unservable.
_FORMAT = 1

#: What is not taken as it is: `schema` goes in as its hash, the user only where a task says so.
_APART = {"schema", "user_id"}
_SENT = [field.name for field in fields(Request) if field.name not in _APART]


def request_key(
    request: Request,
    *,
    task: str,
    given: str,
    prompt_sha256: str,
    schema_sha256: str,
    service: str | None,
    user_id: str | None = None,
) -> str:
    """The SHA-256, in hexadecimal, of all that makes a request what it is.

    Args:
        request: the first request of an attempt.
        task: its name.
        given: the validated input, as JSON; its keys are in the order of the model's fields, and
            below them in that of jsonb.
        prompt_sha256: the content of the prompt version.
        schema_sha256: the output schema as it is sent.
        service: who produced the job; a service is never served what was made for another one.
        user_id: whose the result is, for tasks whose results are their users' own.
    """
    parts = {
        "format": _FORMAT,
        "request": {name: _brief(getattr(request, name)) for name in _SENT},
        "task": task,
        "input": _brief(given),
        "prompt": prompt_sha256,
        "schema": schema_sha256,
        "service": service,
        "user": user_id,
    }
    return _sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")))


def _brief(value: Any) -> Any:
    """A text's hash, which is quicker made than the text escaped; anything else as it is."""
    return _sha256(value) if isinstance(value, str) else value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
