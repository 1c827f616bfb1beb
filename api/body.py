"""Reading a request's body: bounded in size, time and number, and JSON without ambiguity."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import jiter
from starlette.requests import ClientDisconnect, Request

from api.problems import Problem
from worker.settings import get_settings

#: What a job has besides its input, at most.
ENVELOPE_BYTES = 64_000
#: For how long a client that sends too much may go on, so that it gets to read the answer.
_LINGER_SECONDS = 1.0

#: A string, or the next 10,000 escapes of one – no token keeps the interpreter for long –, or a
#: mark. The number of `MARKS` is that of the values: arrays, objects, and what is in them.
TOKEN = re.compile(rb'(?s)(?:"[^"\\]*+|\\.[^"\\]*+)(?:\\.[^"\\]*+){0,9999}+"?|[\[\]{},]')
MARKS = b"[{,"


class Bodies:
    """How many bytes of bodies each service has in this process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @contextmanager
    def one(self, service: str) -> Iterator[Hold]:
        """A body that is about to be read; what it holds is let go at the end."""
        hold = Hold(self, service)
        try:
            yield hold
        finally:
            self._held[service] -= hold.size
            if not self._held[service]:
                del self._held[service]

    def take(self, service: str, size: int, own: int) -> None:
        """Count so many more bytes of a body that has `own` bytes already.

        Raises:
            Problem: 429, they would be too many. One body alone never is.
        """
        held = self._held[service]
        if held > own and held + size > self._most:
            detail = f"Bodies of this service have {held:,} bytes; {self._most:,} are the limit."
            headers = {"retry-after": "1"}
            raise Problem(429, "too-many-bytes", detail, headers=headers, close=True)
        self._held[service] += size


class Hold:
    """What one body takes of its service's bytes."""

    def __init__(self, bodies: Bodies, service: str) -> None:
        self._bodies = bodies
        self._service = service
        self.size = 0

    def grow_to(self, size: int) -> None:
        """Take what is lacking; raises as `Bodies.take` does."""
        if size > self.size:
            self._bodies.take(self._service, size - self.size, self.size)
            self.size = size


async def read_body(request: Request, most: int, hold: Hold | None = None) -> bytes:
    """The body of a request that says that it is JSON.

    Raises:
        Problem: 413 beyond `most` bytes, 408 if it is too slow, 415 if it does not say that it is
            JSON, 400 if it was cut off, 429 if its service has too much under way.
    """
    _check_type(request)
    try:
        return await _read(request, most, hold)
    except Problem as problem:
        if problem.status in (413, 429):
            await _linger(request)
        raise


async def _read(request: Request, most: int, hold: Hold | None) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit():
        _allow(int(announced), most, hold, int(announced))
    chunks, size = list[bytes](), 0
    try:
        async with asyncio.timeout(get_settings().api_receive_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                # Of those that say no length, large ones take all that they may have: if each took
                # a little more and more, there would be none that all its bytes are left for.
                short = announced.isdigit() or size <= ENVELOPE_BYTES
                _allow(size, most, hold, size if short else most)
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(408, "too-slow", "The body did not arrive in time.", close=True) from None
    except ClientDisconnect:
        raise Problem(400, "cut-off", "The body ended before its end.", close=True) from None
    except Problem:
        chunks.clear()  # the exception would keep them
        raise
    return b"".join(chunks)


def _allow(size: int, most: int, hold: Hold | None, expected: int) -> None:
    if size > most:
        detail = f"The body has more than {most:,} bytes, which is the limit."
        raise Problem(413, "body-too-large", detail, close=True)
    if hold is not None:
        hold.grow_to(expected)


def from_json(text: bytes, what: str = "The body") -> Any:
    """JSON as Python objects.

    A key that occurs twice, NaN, a number that no double holds, bad UTF-8 and nesting beyond 200
    levels are errors: two readers of the same text must not understand it differently.

    Raises:
        Problem: 400 if it is not JSON, 413 if it has too many values.
    """
    most = get_settings().api_input_values
    if _has_more_values(text, most):
        raise Problem(413, "input-too-large", f"{what} has more than {most:,} values.")
    try:
        return jiter.from_json(text, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise Problem(400, "malformed-json", f"{what} is not JSON: {error}.") from None


def _has_more_values(text: bytes, most: int) -> bool:
    # To count the bytes that are a mark takes no time; those of a text stand in strings.
    if sum(text.count(mark) for mark in MARKS) <= most:
        return False
    marks = (token for token in TOKEN.finditer(text) if text[token.start()] in MARKS)
    return next(islice(marks, most, None), None) is not None


def _check_type(request: Request) -> None:
    content_type = request.headers.get("content-type", "")
    kind, _, parameters = content_type.partition(";")
    charset = parameters.replace('"', "").replace(" ", "").lower()
    if kind.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        _refuse_type("Send JSON in UTF-8, with `Content-Type: application/json`.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        _refuse_type("Send the body uncompressed, without Content-Encoding.")


def _refuse_type(detail: str) -> None:
    raise Problem(415, "unsupported-media-type", detail, close=True)


async def _linger(request: Request) -> None:
    """Throw away what still comes, for a moment: a connection that is closed with unread data is
    reset, and the client would not see the answer. One that asked first whether to send waits."""
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (message := await request.receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    return
