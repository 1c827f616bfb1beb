"""How long posting to a webhook may take, whatever its host does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from worker.engine.outgoing import NotDelivered, post

DEAD = "203.0.113.1"
_dial = socket.create_connection


@pytest.fixture
def dripping() -> Iterator[int]:
    """The port of a server whose answer's headers come one by one, for ten seconds."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                for number in range(50):
                    connection.sendall(b"X-%d: x\r\n" % number)
                    time.sleep(0.2)
                connection.sendall(b"Content-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody answers at `DEAD`; how long was waited for somebody there."""
    waited: list[float] = []

    def dial(address: tuple[str, int], timeout: float) -> socket.socket:
        if address[0] != DEAD:
            return _dial(address, timeout)
        waited.append(timeout)
        time.sleep(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", dial)
    return waited


def test_a_host_with_many_dead_addresses_gets_no_more_time(dead: list[float]) -> None:
    since = time.monotonic()
    with pytest.raises(NotDelivered, match=r"no answer within 0.5 s"):
        post("http://hook.example/", {}, b"{}", timeout=0.5, addresses=[DEAD] * 20)
    assert time.monotonic() - since < 3
    assert sum(dead) < 0.6


def test_what_drips_is_ended_though_dialling_took_all_the_time(
    dripping: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dial(address: tuple[str, int], timeout: float) -> socket.socket:
        time.sleep(0.6)
        return _dial(address, timeout)

    monkeypatch.setattr(socket, "create_connection", dial)
    since = time.monotonic()
    with pytest.raises(NotDelivered, match=r"no answer within 0.5 s"):
        post(f"http://hook.example:{dripping}/", {}, b"{}", timeout=0.5, addresses=["127.0.0.1"])
    assert time.monotonic() - since < 5


def test_a_dead_address_leaves_time_for_the_next_one(dead: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://hook.example:{server.getsockname()[1]}/"
        assert post(url, {}, b"{}", timeout=4, addresses=[DEAD, "127.0.0.1"]) == 204
    assert len(dead) == 1
