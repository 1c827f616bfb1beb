"""Reading a request's body: bounded in size and time, and JSON without ambiguity."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import jiter
from starlette.requests import ClientDisconnect, Request

from api.problems import Problem
from worker.settings import get_settings

#: What a job has besides its input, at most.
ENVELOPE_BYTES = 64_000
#: For how long a client that sends too much may go on, so that it gets to read the answer.
_LINGER_SECONDS = 1.0


async def read_json(request: Request, most: int) -> tuple[Any, int]:
    """The body as Python objects, and its size in bytes.

    A key that occurs twice, NaN, a number that no double holds, bad UTF-8 and nesting beyond 200
    levels are errors: two readers of the same text must not understand it differently.

    Raises:
        Problem: 413 beyond `most` bytes, 408 if it is too slow, 415 if it does not say that it is
            JSON, 400 if it is not.
    """
    _check_type(request)
    body = await _read(request, most)
    try:
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True), len(body)
    except ValueError as error:
        raise Problem(400, "malformed-json", f"The body is not JSON: {error}.") from None


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


async def _read(request: Request, most: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        await _linger(request)
        raise _too_large(most)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(get_settings().api_receive_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    break
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(408, "too-slow", "The body did not arrive in time.", close=True) from None
    except ClientDisconnect:
        raise Problem(400, "cut-off", "The body ended before its end.", close=True) from None
    if size > most:
        chunks.clear()
        await _linger(request)
        raise _too_large(most)
    return b"".join(chunks)


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


def _too_large(most: int) -> Problem:
    detail = f"The body has more than {most:,} bytes, which is the limit."
    return Problem(413, "body-too-large", detail, close=True)
