"""Hosts that behave badly, on loopback: real sockets, each doing one thing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: Further addresses of loopback, on which a test can have another host at the same port.
DEAD, ELSEWHERE = "127.0.0.2", "127.0.0.3"

#: What is posted to peers: how they know that a request is complete.
BODY = b"{}"

#: What a peer does with a connection whose request it has got.
Act = Callable[[socket.socket], None]


class Peer:
    """A host that answers every request with `act`.

    `connections` counts who came; `broken_off` is set when the client has ended an exchange before
    `act` was done.
    """

    def __init__(self, act: Act, address: str = "127.0.0.1", port: int = 0) -> None:
        self.connections = 0
        self.broken_off = threading.Event()
        self._act = act
        self._open: list[socket.socket] = []
        self._server = socket.create_server((address, port))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                read_request(connection)
                self._act(connection)
            except OSError:
                self.broken_off.set()

    def close(self) -> None:
        for each in (self._server, *self._open):
            with suppress(OSError):  # closing alone leaves threads where they are
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def read_request(connection: socket.socket) -> None:
    """All of it, as hanging up on unread bytes is a reset; of TLS only the beginning."""
    received = b""
    while not received.endswith(BODY) and not received.startswith(b"\x16"):
        if not (more := connection.recv(65_536)):
            raise ConnectionResetError
        received += more


def says(answer: bytes) -> Act:
    """Answers, and hangs up."""
    return lambda connection: connection.sendall(answer)


def says_for_ever(beginning: bytes, more: bytes, pause: float = 0.0) -> Act:
    """Answers without an end, until the client hangs up, with so many seconds between pieces."""
    ended = threading.Event()

    def act(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while not ended.wait(pause):
            connection.sendall(more)

    return act


def says_nothing(connection: socket.socket) -> None:
    """Waits for the client to hang up."""
    while connection.recv(65_536):
        pass
    raise ConnectionResetError


@contextmanager
def nobody_at(address: str, port: int) -> Iterator[None]:
    """Nobody takes up connections there, nor are they refused: the queue of a listener is full."""
    with socket.socket() as listener:
        listener.bind((address, port))
        listener.listen(0)
        waiting: list[socket.socket] = []
        try:
            with suppress(TimeoutError):
                while True:
                    waiting.append(socket.create_connection((address, port), timeout=0.2))
            yield
        finally:
            for each in waiting:
                each.close()
