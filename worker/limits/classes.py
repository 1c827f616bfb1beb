"""Which models share a limit."""

from __future__ import annotations

import re

#: claude-sonnet-5-5-20260901, and the older order of claude-3-5-sonnet-20241022.
_FAMILY_FIRST = re.compile(r"claude-(?P<family>[a-z]+)-(?P<major>\d{1,2})(-.*)?", re.ASCII)
_MAJOR_FIRST = re.compile(
    r"claude-(?P<major>\d{1,2})(-\d{1,2})?-(?P<family>[a-z]+)(-.*)?", re.ASCII
)

#: A name ends up in a Redis key.
_LONGEST = 100


def model_class(model: str) -> str:
    """The class of models that share one limit: family and major version.

    `claude-sonnet-5-5` and `claude-sonnet-5-5-20260901` are both `claude-sonnet-5`. A name that
    is not of this form is a class of its own.
    """
    match = _FAMILY_FIRST.fullmatch(model) or _MAJOR_FIRST.fullmatch(model)
    if match is None:
        return model[:_LONGEST]
    return f"claude-{match['family']}-{match['major']}"[:_LONGEST]
