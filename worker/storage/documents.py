"""JSON as Postgres keeps it, which is more than Python's reader takes.

`jsonb` has numbers of up to 131,072 digits and nests thousands of levels deep. A row that nobody's
`enqueue_job` has seen may have either, and it must be read like any other: a worker that fails on
it after the claim would be taken for dead, again and again.
"""

from __future__ import annotations

from json import JSONDecoder
from math import inf
from typing import Any

#: Beyond, Python reads no integers unless it is told to (`sys.set_int_max_str_digits`).
_MOST_DIGITS = 4_300


def loads(document: bytes) -> Any:
    """JSON as Python objects: an integer that is too long is infinite, and what is nested too deep
    stays the text that it is."""
    text = document.decode()
    try:
        return _DECODER.decode(text)
    except RecursionError:
        return text


def _integer(digits: str) -> int | float:
    if len(digits.lstrip("-")) <= _MOST_DIGITS:
        return int(digits)
    return -inf if digits.startswith("-") else inf


_DECODER = JSONDecoder(parse_int=_integer)
