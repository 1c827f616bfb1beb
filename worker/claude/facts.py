"""What is known of a failed call, without the SDK: importing that takes a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "terminal",  # the same request cannot succeed
    "transient",  # it can, later
    "rate_limited",  # it can, when the limit has room again
    "spend_limit",  # nothing can, until somebody pays or a month begins
    "aborted",  # we ended it ourselves
]

#: Why we ended a call ourselves.
Reason = Literal["timeout", "stalled", "cancelled", "lost", "shutdown"]


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What the retry policy may look at.

    `headers` are the response's, in lower case; `code` is the error's `error_code`.
    """

    kind: Kind
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None
    aborted: Reason | None = None
