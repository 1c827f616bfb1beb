"""Around every request: its id, its line in the log, security headers, and an answer to whatever
goes wrong in it."""

from __future__ import annotations

import re
import time
from secrets import token_hex

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import from_exception, log_unexpected

log = structlog.get_logger("api.access")

SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_NAMES = frozenset(name for name, _ in _HEADERS)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Envelope:
    """The outermost layer that knows what a request is.

    The log has no path, as one can be anything, and neither query nor body: the route, and with it
    what was asked for; the service and the id of its key; and `request_id`, which the client gets.
    """

    def __init__(self, app: ASGIApp, *, access_log: bool) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})

        async def enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                own = {name for name, _ in headers if name in _NAMES}
                extra = [each for each in _HEADERS if each[0] not in own]
                given = state.get("headers")
                if given:
                    present = {name for name, _ in headers}
                    pairs = [(n.encode(), v.encode()) for n, v in given.items()]
                    extra += [each for each in pairs if each[0] not in present]
                message["headers"] = [*headers, *extra, (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, enveloped)
        except Exception as error:
            if status:
                log_unexpected(error)
                # Half an answer is out: the connection must end where a client notices.
                raise ConnectionAbortedError("the answer was cut off") from None
            answer = from_exception(error).response(Request(scope).scope["path"])
            await answer(scope, receive, enveloped)
        finally:
            if self._access_log:
                _log(scope, state, status, request_id, time.perf_counter() - started)


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value)
    return token_hex(8).encode()


def _log(
    scope: Scope, state: dict[str, object], status: int, request_id: bytes, took: float
) -> None:
    route, key = scope.get("route"), state.get("key")
    log.info(
        "request",
        method=scope["method"],
        route=getattr(route, "path_format", None),
        status=status or 499,  # the client went before there was an answer
        ms=round(took * 1000, 1),
        service=getattr(key, "service", None),
        key=str(key.id) if key is not None else None,  # type: ignore[attr-defined]
        request_id=request_id.decode(),
    )
