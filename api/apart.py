"""Taking a batch's body apart, so that its jobs can be parsed one by one.

A parser keeps the interpreter to itself until it is through: seconds for 32 MB of small values,
whichever thread it runs in. What comes of them takes thirty times their size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from api.body import MARKS, TOKEN, from_json
from api.problems import Problem

MOST_JOBS = 10_000
#: Of all jobs together: a hundred for each.
MOST_VALUES = 1_000_000
#: Tokens that are read in half a millisecond, and bytes of one that takes a tenth of that.
_STRETCH, _LONG = 2_000, 10_000
#: A body of another shape is parsed, to tell bad JSON from another shape, if it is this small.
_SMALL = 100_000

_HEAD = re.compile(rb'[ \t\n\r]*+\{[ \t\n\r]*+"jobs"[ \t\n\r]*+:[ \t\n\r]*+\[')
_TAIL = re.compile(rb"[ \t\n\r]*+\}[ \t\n\r]*+")
_OPEN, _CLOSE = b"[{", b"]}"


def each_job(body: bytes) -> Iterator[bytes | None]:
    """The text of each job in `{"jobs": […]}`, and None after every half a millisecond at most.

    A text may be no JSON; if every one is, so is the body.

    Raises:
        Problem: it is no such body, or has too many jobs or values.
    """
    head = _HEAD.match(body)
    if head is None:
        raise _misfit(body)
    begin, depth, jobs, values = head.end(), 0, 0, 0
    for number, token in enumerate(TOKEN.finditer(body, begin), 1):
        mark = body[token.start()]
        values += mark in MARKS
        if not depth and (mark in b",]"):
            job = body[begin : token.start()]
            begin = token.end()
            none = mark in b"]" and not jobs and not job.strip()
            if not none:
                jobs += 1
                if jobs > MOST_JOBS:
                    raise _misfit()
                yield job
            if mark in b"]":
                if none or not _TAIL.fullmatch(body, begin):
                    raise _misfit(b'{"jobs":[]' + body[begin : begin + _SMALL + 1])
                return
        elif mark in _OPEN:
            depth += 1
        elif mark in _CLOSE:
            depth -= 1
        if values > MOST_VALUES:
            raise Problem(413, "body-too-large", f"The body has more than {MOST_VALUES:,} values.")
        if not number % _STRETCH or token.end() - token.start() > _LONG:
            yield None
    raise Problem(400, "malformed-json", "The body is not JSON: it ends within `jobs`.")


def _misfit(body: bytes | None = None) -> Problem:
    if body is not None and len(body) <= _SMALL:
        from_json(body)
    return Problem(
        422,
        "invalid-input",
        f'The body does not fit: it is {{"jobs": […]}}, with 1 to {MOST_JOBS:,} jobs.',
    )
