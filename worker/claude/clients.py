"""SDK clients, checked out one a call.

httpcore2 looks at every connection of its pool whenever a request starts or ends, so with one
shared client the price of a call grows with the calls in flight. A client with a single
connection, taken from a stack, keeps it flat: the most recently used one goes out first, and its
connection is still warm. Building one costs 0.2 ms on a shared SSL context (21–33 ms on its own).

A client of one call also makes it possible to end that call from another thread: its one socket
is shut down, Claude stops generating, and the thread that waits for the reply gets an error.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import httpx2
from anthropic import Anthropic, DefaultHttpxClient

_LIMITS = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30.0)

#: Events of httpcore2's `trace` extension after which the connection has a new stream.
_CONNECTED = ("connection.connect_tcp.complete", "connection.start_tls.complete")


class CallClient:
    """An SDK client with one connection, whose socket can be shut down by any thread."""

    def __init__(self, api_key: str, base_url: str, ssl_context: ssl.SSLContext) -> None:
        self._socket: socket.socket | None = None
        # The SDK would sleep in the caller and obey any retry-after; our retries free the slot.
        self.sdk = Anthropic(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            http_client=DefaultHttpxClient(
                verify=ssl_context,
                limits=_LIMITS,
                event_hooks={"request": [self._trace_connections]},
            ),
        )

    def shut_down(self) -> None:
        """End whatever is being sent or received; a second call does nothing."""
        if self._socket is not None:
            # Not SSLSocket's own shutdown, which takes the TLS layer away under the reader.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _trace_connections(self, request: httpx2.Request) -> None:
        request.extensions["trace"] = self._on_event

    def _on_event(self, name: str, info: dict[str, Any]) -> None:
        if name in _CONNECTED:
            self._socket = info["return_value"].get_extra_info("socket")


class ClientStack:
    """As many clients as calls were ever in flight at once; safe to use from any thread."""

    def __init__(self, api_key: str, base_url: str) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._idle: deque[CallClient] = deque()

    @contextmanager
    def checkout(self) -> Iterator[CallClient]:
        """A client that nobody else uses until the block ends."""
        try:
            client = self._idle.pop()
        except IndexError:
            client = CallClient(self._api_key, self._base_url, self._ssl_context)
        try:
            yield client
        finally:
            self._idle.append(client)

    def close(self) -> None:
        """Close the idle clients' connections."""
        while self._idle:
            self._idle.pop().sdk.close()

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return httpx2.create_ssl_context()
