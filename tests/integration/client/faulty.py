"""A server between the client and the gateway that does to each request what it was told."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self) -> None:
        """Do what comes next."""
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        faulty = self.server.faulty
        with faulty.lock:
            faulty.seen.append(Seen(self.command, self.path, dict(self.headers.items())))
            fault = faulty.faults.popleft() if faulty.faults else passed
        fault(self)

    do_GET = do_POST = do_DELETE = answer

    def forward(self) -> http.client.HTTPResponse:
        """Ask the gateway."""
        parts = urlsplit(self.server.faulty.behind)
        wire = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        wire.request(self.command, self.path, self.body, headers | {"Connection": "close"})
        return wire.getresponse()

    def reset(self) -> None:
        """Break the connection: the client sees a reset, and no answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)
        self.wfile.close()
        self.rfile.close()
        self.connection.close()

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Answer."""
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def start_stream(self) -> None:
        """Begin to answer with server-sent events."""
        self.sent = 0
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_piece(self, data: bytes) -> None:
        """Send a part of them."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.sent += len(data)

    def log_message(self, *args: Any) -> None:
        pass


def passed(handler: Handler) -> None:
    """The gateway's answer as it is."""
    with handler.forward() as answer:
        kind = answer.headers.get("content-type", "")
        handler.send(answer.status, {"Content-Type": kind}, answer.read())


def dropped(handler: Handler) -> None:
    """The gateway has answered, and nobody hears it."""
    with handler.forward() as answer:
        answer.read()
    handler.reset()


def cut_after(size: int) -> Fault:
    """The gateway's stream, cut off after about so many bytes."""

    def send(handler: Handler) -> None:
        with handler.forward() as answer:
            handler.start_stream()
            while size > handler.sent and (piece := answer.read1(4096)):
                handler.send_piece(piece)
        handler.close_connection = True

    return send


def refused(handler: Handler) -> None:
    """The connection breaks before the gateway hears anything."""
    handler.reset()


def says(status: int, body: bytes = b"", **headers: str) -> Fault:
    """An answer that is none of the gateway's."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.send(status, named, body)


def streams(*blocks: str, cut: bool = False) -> Fault:
    """A stream of these events that ends in order, or is cut off."""

    def send(handler: Handler) -> None:
        handler.start_stream()
        for block in blocks:
            handler.send_piece(block.encode())
        if not cut:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return send


def silent(handler: Handler) -> None:
    """A stream of which nothing comes until the client has had enough."""
    handler.connection.settimeout(10)
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    handler.wfile.flush()
    handler.rfile.read(1)
    handler.close_connection = True


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Faulty:
    """What happens to the next requests, and what has arrived so far."""

    behind: str
    url: str = ""
    faults: deque[Fault] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def then(self, *faults: Fault) -> None:
        """Do this to the next requests; those behind them pass."""
        self.faults.extend(faults)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    faulty: Faulty

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that has gone is what these tests are about."""


@contextmanager
def faulty_server(behind: str) -> Iterator[Faulty]:
    """Serve until the end."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.faulty = Faulty(behind, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.faulty
        finally:
            server.shutdown()
            thread.join()
