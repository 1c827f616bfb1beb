"""Posting to a webhook comes to an end, whatever its host does."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException

import pytest

from tests.unit.engine.peers import (
    BODY,
    DEAD,
    ELSEWHERE,
    Act,
    Peer,
    nobody_at,
    says,
    says_for_ever,
    says_nothing,
)
from worker.engine import outgoing
from worker.engine.outgoing import NotDelivered, post

OK = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
DRIPPING = says_for_ever(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x", pause=0.05)

Start = Callable[..., Peer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts hosts."""
    started: list[Peer] = []

    def start(act: Act, address: str = "127.0.0.1", port: int = 0) -> Peer:
        started.append(Peer(act, address, port))
        return started[-1]

    yield start
    for peer in started:
        peer.close()


def post_to(peer: Peer, *, addresses: list[str] | None = None, timeout: float = 30) -> int:
    url = f"http://hook.example:{peer.port}/"
    return post(url, {}, BODY, timeout=timeout, addresses=addresses or ["127.0.0.1"])


def test_dead_addresses_leave_time_for_the_next_one(start: Start) -> None:
    peer = start(says(OK))
    with nobody_at(DEAD, peer.port):
        assert post_to(peer, addresses=[DEAD, DEAD, "127.0.0.1"], timeout=4) == 204


def test_an_address_that_refuses_is_followed_by_the_next_one_and_that_by_none(start: Start) -> None:
    peer = start(says(OK))
    spare = start(says(OK), ELSEWHERE, peer.port)

    assert post_to(peer, addresses=[DEAD, "127.0.0.1", ELSEWHERE]) == 204

    assert (peer.connections, spare.connections) == (1, 0)


def test_a_host_with_many_dead_addresses_gets_no_more_time(start: Start) -> None:
    """Half a second for each would be longer than the minute that somebody else gives one."""
    peer = start(says(OK))
    with ThreadPoolExecutor(1) as aside:
        with nobody_at(DEAD, peer.port):
            patient = aside.submit(post_to, peer, addresses=[DEAD, "127.0.0.1"], timeout=120)

            with pytest.raises(NotDelivered, match=r"no answer within 0.5 s"):
                post_to(peer, addresses=[DEAD] * 200, timeout=0.5)

            assert not patient.done()
        assert patient.result() == 204


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (says_nothing, "no answer within 0.5 s"),
        (DRIPPING, "no answer within 0.5 s"),
        (says_for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", pause=0.05), "no answer within 0.5 s"),
        (says_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.05), "no answer within"),
    ],
    ids=["silence", "a header that drips", "headers that drip", "interim answers that drip"],
)
def test_an_answer_that_does_not_come_in_time_is_broken_off(
    start: Start, act: Act, reason: str
) -> None:
    peer = start(act)

    with pytest.raises(NotDelivered, match=reason):
        post_to(peer, timeout=0.5)

    assert peer.broken_off.wait(30)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (says_for_ever(b"HTTP/1.1 200 ", b"x" * 1000), "more than 65,536 bytes of headers"),
        (says_for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1000), "more than 65,536 bytes"),
        (says_for_ever(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n"), "more than 65,536"),
        (says_for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "HTTPException"),  # at a hundred
        (says_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "more than 65,536 bytes"),
    ],
    ids=["status", "a header", "long headers", "headers", "interim answers"],
)
def test_a_head_without_an_end_is_broken_off_long_before_the_time_is_up(
    start: Start, act: Act, reason: str
) -> None:
    peer = start(act)

    with pytest.raises(NotDelivered, match=reason):
        post_to(peer, timeout=60)

    assert peer.broken_off.wait(30)


@pytest.mark.parametrize("status", [200, 500])
def test_a_body_without_an_end_is_not_read(start: Start, status: int) -> None:
    peer = start(says_for_ever(b"HTTP/1.1 %d X\r\n\r\n" % status, b"x" * 65_536))

    if status == 200:
        assert post_to(peer, timeout=60) == 200
    else:
        with pytest.raises(NotDelivered, match="HTTP 500"):
            post_to(peer, timeout=60)

    assert peer.broken_off.wait(30)


def test_tls_that_is_never_agreed_on_is_broken_off(start: Start) -> None:
    # A handshake record of 16,000 bytes, one at a time.
    peer = start(says_for_ever(b"\x16\x03\x03\x3e\x80", b"\x02", pause=0.05))
    url = f"https://hook.example:{peer.port}/"

    with pytest.raises(NotDelivered, match=r"no answer within 0.5 s"):
        post(url, {}, BODY, timeout=0.5, addresses=["127.0.0.1"])

    assert peer.broken_off.wait(30)


def test_what_is_dialled_after_the_time_was_up_is_ended_too(start: Start) -> None:
    """As when looking up the name, or TLS, has taken it all."""
    peer = start(DRIPPING)
    connections = outgoing._Connections(["127.0.0.1"])
    over = threading.Event()
    watch = threading.Thread(target=connections.end_after, args=(over, 0.0))
    watch.start()
    while not connections.timed_out:
        watch.join(0.01)

    def post_late() -> None:
        with suppress(OSError, HTTPException):  # or it looks like the end of an answer
            opener = urllib.request.build_opener(connections)
            opener.open(f"http://hook.example:{peer.port}/", BODY, timeout=60).close()

    threading.Thread(target=post_late, daemon=True).start()

    assert peer.broken_off.wait(30)
    over.set()
    watch.join()


@pytest.mark.parametrize("location", ["http://{elsewhere}/", "file:///etc/passwd", "http://[", ""])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nobody_is_called_because_an_answer_says_so(
    start: Start, location: str, status: int
) -> None:
    elsewhere = start(says(OK))
    to = location.format(elsewhere=f"127.0.0.1:{elsewhere.port}").encode()
    peer = start(says(b"HTTP/1.1 %d Go\r\nLocation: %s\r\n\r\n" % (status, to)))

    for addresses in (["127.0.0.1"], None):
        url = f"http://localhost:{peer.port}/"
        with pytest.raises(NotDelivered, match=f"^HTTP {status}$"):
            post(url, {}, BODY, timeout=30, addresses=addresses)

    assert (peer.connections, elsewhere.connections) == (2, 0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "RemoteDisconnected"),
        (b"\x00\xff nonsense\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 99999 OK\r\n\r\n", "BadStatusLine"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "BadStatusLine"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "HTTP 101"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP 304"),
        (b"HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=x\r\n\r\n", "HTTP 401"),
    ],
)
def test_what_is_no_2xx_is_no_delivery(start: Start, answer: bytes, reason: str) -> None:
    peer = start(says(answer))

    with pytest.raises(NotDelivered, match=reason):
        post_to(peer)

    assert peer.connections == 1
