"""Judging a text against a model: what producers send in, and what Claude sends back."""

from __future__ import annotations

import re
from math import isfinite, isinf
from typing import Any

from pydantic import ValidationError

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

#: Pydantic's JSON parser gives up soon after; Postgres and Python go further, but not for ever.
MAX_DEPTH = 150


def problems_of(error: ValidationError) -> list[dict[str, str]]:
    """What is wrong, by path; the values themselves are left out."""
    return [
        {"path": ".".join(map(str, problem["loc"])) or "(all)", "problem": problem["msg"]}
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def in_words(problems: list[dict[str, str]], limit: int = 5) -> str:
    """Problems as one line."""
    listed = [f"{p['path']}: {p['problem']}" for p in problems[:limit]]
    more = len(problems) - limit
    return "; ".join(listed) + (f"; and {more} more" if more > 0 else "")


def unstorable(value: Any, path: str = "", depth: int = 0) -> str | None:
    """The path of the first value that Postgres cannot store, and why; None when all is well.

    JSON allows NUL characters; Python allows lone surrogates, NaN and circles. `jsonb` takes none.
    """
    if isinstance(value, str):
        found = _UNSTORABLE.search(value)
        return None if found is None else f"{path}: {_describe(found)}"
    if isinstance(value, float) and not isfinite(value):
        return f"{path}: {value} is not JSON" + (" (1e308 or more)" if isinf(value) else "")
    if depth > MAX_DEPTH:
        return f"{path.partition('.')[0]}: nested more than {MAX_DEPTH} levels deep"
    if isinstance(value, dict):
        for key, item in value.items():
            at = f"{path}.{_UNSTORABLE.sub('?', str(key))}".lstrip(".")
            if problem := unstorable(str(key), at) or unstorable(item, at, depth + 1):
                return problem
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if problem := unstorable(item, f"{path}.{index}".lstrip("."), depth + 1):
                return problem
    return None


def storable(value: Any, depth: int = 0) -> Any:
    """`value` with what Postgres cannot store replaced by U+FFFD."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if depth > MAX_DEPTH or (isinstance(value, float) and not isfinite(value)):
        return "\ufffd"
    if isinstance(value, dict):
        return {storable(str(key)): storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item, depth + 1) for item in value]
    return value


def _describe(found: re.Match[str]) -> str:
    at = f"at position {found.start()}"
    if found.group() == "\x00":
        return f"a NUL character {at}, which Postgres cannot store: remove it"
    return f"a lone surrogate (\\u{ord(found.group()):04x}) {at} is not valid Unicode: remove it"
