"""Posting to a webhook: one exchange, bounded in time and size, without redirects.

Where it goes is either up to whoever runs this – then the environment's proxies and resolver are
asked as usual – or was checked by the caller, and then nothing but the checked addresses is called:
no proxy, no second look at the name, which might have another answer.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

#: Between two attempts to end an exchange whose time is up (seconds).
_AGAIN = 0.25
#: Of an answer, in bytes; its body is not read.
_LONGEST_HEAD = 65_536


class NotDelivered(Exception):
    """Why a webhook did not take what was posted: never with its URL, which may be a secret.

    `status` is that of the answer, if there was one; `for_good` says that no later attempt can fare
    better.
    """

    def __init__(self, reason: str, status: int | None = None, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.for_good = for_good


def post(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    timeout: float,
    addresses: Sequence[str] | None = None,
) -> int:
    """Post `body` and return the status of the answer: any 2xx; its body is not read.

    A name and password in the URL become basic auth.

    Args:
        url: http or https.
        headers: besides those that belong to any request.
        body: what is posted.
        timeout: seconds for the whole exchange.
        addresses: IP addresses of the URL's host, tried in order; None: as the system has them.

    Raises:
        NotDelivered: the webhook could not be reached, did not answer in time, or refused.
    """
    target, login = _without_login(url)
    all_headers = {"User-Agent": "claude-jobs", **headers}
    if login:
        all_headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    request = urllib.request.Request(target, body, all_headers, method="POST")  # noqa: S310 – checked
    connections = _Connections(addresses)
    opener = _opener(connections, proxies=addresses is None)
    over = threading.Event()
    arguments = (over, timeout)
    threading.Thread(target=connections.end_after, args=arguments, daemon=True).start()
    failure, status = None, None
    try:
        with opener.open(request, timeout=timeout) as answer:
            status = int(answer.status)
    except HTTPError as error:
        error.close()
        failure, status = f"HTTP {error.code}", error.code
    except (OSError, http.client.HTTPException, ValueError) as error:
        failure = _reason(error)
    finally:
        over.set()
    # A shutdown may look like the end of an answer, whether good or bad; the socket's own timeout
    # may come a moment before it.
    if connections.timed_out or failure == TimeoutError.__name__:
        failure, status = f"no answer within {timeout:g} s", None
    if failure is not None or status is None:
        raise NotDelivered(failure or "no answer", status)
    return status


def _opener(connections: _Connections, *, proxies: bool) -> urllib.request.OpenerDirector:
    """Of urllib's handlers none that follows a redirect, reads a file or asks an FTP server."""
    opener = urllib.request.OpenerDirector()
    if proxies:
        opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(connections)
    opener.add_handler(urllib.request.UnknownHandler())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    return opener


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Building one takes tens of milliseconds of CPU: once a process."""
    return ssl.create_default_context()


class _Connections(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Keeps hold of the connection, so that an exchange which drips on for ever can be ended.

    A socket's timeout bounds the wait for the next byte, not for the last one.
    """

    def __init__(self, addresses: Sequence[str] | None) -> None:
        super().__init__()
        self.timed_out = False
        self._addresses = addresses
        self._connection: http.client.HTTPConnection | None = None

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect_tls, req)

    def end_after(self, over: threading.Event, timeout: float) -> None:
        """End the exchange unless it is `over` after `timeout` seconds; for another thread.

        Again and again: while it is dialling, or TLS is being agreed on, there is no socket yet
        that could be shut down, and the one that comes then must not live.
        """
        while not over.wait(_AGAIN if self.timed_out else timeout):
            self.timed_out = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self._connection is not None and self._connection.sock is not None:
            # Not SSLSocket's own shutdown, which takes the TLS layer away under the reader.
            with suppress(OSError):
                socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)

    def _connect(self, host: str, **options: Any) -> http.client.HTTPConnection:
        return self._prepared(http.client.HTTPConnection(host, **options))

    def _connect_tls(self, host: str, **options: Any) -> http.client.HTTPConnection:
        return self._prepared(http.client.HTTPSConnection(host, context=_tls(), **options))

    def _prepared(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        connection.response_class = _Answer
        self._connection = self._pinned(connection)
        return connection

    def _pinned(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        """The connection, to the addresses whatever its host is; a certificate must be the host's.

        They share the time that there is: a host may have any number of them, and dead ones.
        """
        if (addresses := self._addresses) is None:
            return connection

        def dial(host_and_port: tuple[str, int], timeout: float, *_: Any) -> socket.socket:
            failure: OSError = OSError("no address")
            until = time.monotonic() + timeout
            for place, address in enumerate(addresses):
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                share = left / (len(addresses) - place)
                try:
                    dialled = socket.create_connection((address, host_and_port[1]), share)
                except OSError as error:
                    failure = error
                else:
                    dialled.settimeout(timeout)
                    return dialled
            raise failure

        # http.client's own seam: what it calls in place of socket.create_connection.
        connection._create_connection = dial  # type: ignore[attr-defined]
        return connection


class _Answer(http.client.HTTPResponse):
    """An answer whose head ends; http.client alone reads any number of interim answers."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = _Head(self.fp.detach())


class _Head(io.BufferedReader):
    _left = _LONGEST_HEAD

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self._left -= len(line)
        if self._left < 0:
            raise NotDelivered(f"its answer has more than {_LONGEST_HEAD:,} bytes of headers")
        return line


def _without_login(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl(), unquote(login)


def _reason(error: Exception) -> str:
    """An error in words that cannot quote the URL: its type, and what the system says."""
    cause = error.reason if isinstance(error, URLError) else error
    said = cause.strerror if isinstance(cause, OSError) and cause.strerror else ""
    return f"{type(cause).__name__}: {said}" if said else type(cause).__name__
