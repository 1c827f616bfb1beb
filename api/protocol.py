"""uvicorn's protocol with the bounds that it lacks: on connections that say nothing, or too much.

Without them a client that opens a connection and sends nothing, or a byte of a header every now and
then, holds it for ever; and httptools, unlike h11, takes headers of any length.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.problems import MEDIA_TYPE, Problem
from worker.settings import get_settings

#: Of a request's line and headers together (bytes).
MOST_HEAD = 32_768
#: A peer that acknowledges nothing, or whose window stays shut, for so long is gone (seconds).
_SILENCE = 60


class GatewayProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = get_settings()
        self._most_connections = settings.api_connections
        self._patience = settings.api_receive_seconds
        self._deadline: asyncio.TimerHandle | None = None
        self._head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most_connections:
            self._turn_away(Problem(503, "too-many-connections", "Too many connections."))
            return
        peer = cast("socket.socket | None", transport.get_extra_info("socket"))
        if peer is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            # Heartbeats to a client that is gone, or does not read, must not go on for ever.
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE * 1000)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_came()
        if self._head <= MOST_HEAD:
            super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        self._turn_away(Problem(400, "malformed-request", msg))

    def shutdown(self) -> None:
        """The process stops: streams and waits end, and with them their connections."""
        if (stopping := self.app_state.get("stopping")) is not None:
            stopping.set()
        super().shutdown()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MOST_HEAD and not self.transport.is_closing():
            detail = f"The line and headers of a request have {MOST_HEAD:,} bytes at most."
            self._turn_away(Problem(431, "headers-too-large", detail))

    def _expect_head(self) -> None:
        self._head_came()
        self._deadline = self.loop.call_later(self._patience, self._too_slow)

    def _head_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._turn_away(
                Problem(408, "too-slow", "The request's headers did not arrive in time.")
            )

    def _turn_away(self, problem: Problem) -> None:
        """Answer a request that never becomes one, and close the connection.

        While an earlier request is being answered, nothing may come between: it is only closed.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
            return
        body = problem.response("/").body
        head = (
            f"HTTP/1.1 {problem.status} {problem.as_json()['title']}\r\n"
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "cache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + bytes(body))
        self.transport.close()
