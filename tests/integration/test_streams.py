"""Streams between real writers and readers, over a real Valkey."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis

from sandbox.stack import Stack
from worker.streams.call import ENTRY_BYTES, CallStream, Command
from worker.streams.entries import key_of
from worker.streams.hub import Hub, Subscription
from worker.streams.reader import aread, read
from worker.streams.view import StreamEvent, View
from worker.streams.writer import StreamWriter

Eventually = Callable[..., None]

_calls = count(1)


@pytest.fixture(scope="module")
def url(stack: Stack) -> str:
    """A database of Valkey that no other test uses."""
    return stack.valkey.url.removesuffix("/0") + "/1022"


@pytest.fixture(scope="module")
def server(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="module")
def writer(url: str) -> Iterator[StreamWriter]:
    made = StreamWriter(url, ttl_seconds=100)
    yield made
    made.close()


@pytest.fixture
def job() -> UUID:
    return uuid4()


@pytest.fixture
def begin(writer: StreamWriter, job: UUID) -> Callable[..., CallStream]:
    """Open the stream of the job's next call."""
    return lambda attempt=1, **options: writer.open(job, attempt, next(_calls), **options)


class Reading:
    """A reader that is asked for what it has been told so far."""

    def __init__(self, hub: Hub, job: UUID, after: str | None = None) -> None:
        self.events: list[StreamEvent] = []
        self._view = View(after)
        self._subscription = hub.subscribe(job, lambda: None)

    @property
    def subscription(self) -> Subscription:
        return self._subscription

    def look(self) -> list[tuple[str, str]]:
        """What happened, with neighbouring deltas put together."""
        self.events += self._view.take(self._subscription.take())
        told: list[tuple[str, str]] = []
        for event in self.events:
            if event.kind == "delta" and told and told[-1][0] == "delta":
                told[-1] = ("delta", told[-1][1] + event.text)
            else:
                told.append((event.kind, event.text))
        return told

    def text(self) -> str:
        """All that it has been told."""
        return "".join(text for _, text in self.look())


@pytest.fixture(scope="module")
def hub(url: str) -> Hub:
    return Hub(url)


@pytest.fixture
def reading(hub: Hub, job: UUID) -> Iterator[Callable[..., Reading]]:
    made: list[Reading] = []

    def start(after: str | None = None) -> Reading:
        made.append(Reading(hub, job, after))
        return made[-1]

    yield start
    for one in made:
        hub.leave(one.subscription)


def test_early_late_and_resuming_readers_have_the_same_text(
    begin: Any, reading: Any, eventually: Eventually
) -> None:
    early = reading()
    stream = begin()
    stream.delta("one ")
    eventually(lambda: early.look() == [("delta", "one ")], "the first piece never came")
    stream.delta("two ")
    stream.delta("three")
    stream.done()
    whole = [("delta", "one two three"), ("done", "")]
    eventually(lambda: early.look() == whole, "the rest never came")

    late, resuming = reading(), reading(early.events[0].id)
    eventually(lambda: late.look() == whole, "who came late has not got everything")
    rest = [("delta", "two three"), ("done", "")]
    eventually(lambda: resuming.look() == rest, "who came back has not got the rest")


def test_pieces_are_put_together(
    begin: Any, server: redis.Redis, job: UUID, eventually: Eventually
) -> None:
    stream = begin()
    pieces = 0
    while server.xlen(key_of(job)) < 5:
        for _ in range(100):
            stream.delta("x")
        pieces += 100
    stream.done()
    eventually(lambda: server.xrevrange(key_of(job), count=1)[0][1]["kind"] == "done")
    entries = server.xrange(key_of(job))

    assert "".join(fields["text"] for _, fields in entries) == "x" * pieces
    assert len(entries) < pieces / 10


class Noting(StreamWriter):
    """Notes when each stream was written to, by the moment that the flusher goes by."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.written: dict[Any, list[float]] = {}
        self._now = 0.0

    def _flush(self, streams: list[CallStream], now: float) -> None:
        self._now = now
        super()._flush(streams, now)

    def _send(self, commands: list[Command]) -> list[Any]:
        for key in {command[1] for command in commands}:
            self.written.setdefault(key, []).append(self._now)
        return super()._send(commands)


def test_no_stream_is_written_to_again_within_50_ms_however_it_begins(url: str) -> None:
    writer = Noting(url)
    streams: list[CallStream] = []
    for _ in range(40):
        streams.append(writer.open(uuid4(), 1, next(_calls)))
        for _ in range(5):
            for stream in streams:
                stream.delta("x")
            time.sleep(0.003)  # so that streams begin at all moments of the flusher's round
    written = {key: list(moments) for key, moments in writer.written.items()}
    writer.close()

    gaps = [b - a for moments in written.values() for a, b in pairwise(moments)]
    assert len(gaps) > 40
    assert min(gaps) >= 0.05 - 1e-6  # 20 times a second at most


def test_a_first_piece_waits_for_no_other_streams_turn(
    url: str, server: redis.Redis, job: UUID, eventually: Eventually
) -> None:
    # A writer that rests for ever once it has written, and a hub that reads once.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.streams.writer.INTERVAL", 1000.0)
        patch.setattr("worker.streams.hub._INTERVAL", 1000.0)
        writer, hub = StreamWriter(url), Hub(url)
        writer.open(job, 1, next(_calls))
        eventually(lambda: server.exists(key_of(job)), "it never began to rest")
        jobs = [uuid4() for _ in range(3)]
        readers = [Reading(hub, one) for one in jobs]
        streams = []
        for one, reader in zip(jobs, readers, strict=True):
            streams.append(writer.open(one, 1, next(_calls)))
            streams[-1].delta("first ")
            eventually(lambda reader=reader: reader.text() == "first ", "it was held back")
            streams[-1].delta("second")

        # All that came later is still to be written, and is when the writer closes.
        assert [server.xlen(key_of(one)) for one in jobs] == [2, 2, 2]
        writer.close(timeout=10)
        assert [server.xlen(key_of(one)) for one in jobs] == [3, 3, 3]
    for reader in readers:
        hub.leave(reader.subscription)


def test_a_stream_is_bounded_in_size_and_time(
    url: str, server: redis.Redis, job: UUID, eventually: Eventually
) -> None:
    writer = StreamWriter(url, ttl_seconds=100, max_bytes=50_000)
    stream = writer.open(job, 1, next(_calls))
    # A piece that is too large, of characters of three bytes, and pieces after it.
    stream.delta("€" * 100_000)
    eventually(lambda: server.xlen(key_of(job)) == 2, "nothing was written")
    assert 90 < int(server.ttl(key_of(job))) <= 100  # type: ignore[arg-type]
    stream.delta("more")
    stream.done()
    eventually(lambda: server.xlen(key_of(job)) == 3, "the end was not written")

    texts = [fields["text"] for _, fields in server.xrange(key_of(job))]
    kept = len(texts[1].encode())
    assert texts == ["", "€" * len(texts[1]), ""]
    assert 50_000 - 2 * ENTRY_BYTES - 3 <= kept <= 50_000
    assert int(server.ttl(key_of(job))) <= 60  # type: ignore[arg-type]
    writer.close()


def test_hostile_text_comes_through_unchanged(
    begin: Any, reading: Any, eventually: Eventually
) -> None:
    hostile = "\x00\r\n\x1b[2J\u2028'\"; FLUSHALL --é🙂"
    reader = reading()
    stream = begin()
    stream.delta(hostile)
    eventually(lambda: reader.look() == [("delta", hostile)])
    # Half of a surrogate pair cannot be written, and must not stop what can.
    stream.delta("\ud800!")
    eventually(lambda: reader.look() == [("delta", hostile + "?!")])


def test_what_a_worker_writes_after_its_lease_was_lost_is_refused(
    begin: Any, reading: Any, server: redis.Redis, job: UUID, eventually: Eventually
) -> None:
    reader = reading()
    zombie = begin()
    zombie.delta("old ")
    eventually(lambda: reader.look() == [("delta", "old ")])
    # A rescue gives its attempt back: both have the same number.
    rescuer = begin(reason="worker lost")
    rescuer.delta("new ")
    zombie.delta("from beyond")
    zombie.retrying("from beyond")
    eventually(lambda: zombie.over, "the zombie was not noticed")
    rescuer.delta("text")
    rescuer.done()

    expected = [("delta", "old "), ("retrying", "worker lost"), ("delta", "new text"), ("done", "")]
    eventually(lambda: reader.look() == expected, "the calls were mixed")
    assert {i.partition("-")[0] for i, _ in server.xrange(key_of(job))} == {
        str(rescuer._call)  # what the first call wrote is gone
    }


def test_a_stream_that_was_flushed_begins_anew_with_everything_so_far(
    begin: Any, reading: Any, server: redis.Redis, job: UUID, eventually: Eventually
) -> None:
    reader = reading()
    stream = begin()
    stream.delta("one ")
    eventually(lambda: reader.look() == [("delta", "one ")])
    server.flushdb()
    stream.delta("two ")
    again = [("delta", "one "), ("retrying", "Claude is asked again"), ("delta", "one two ")]
    eventually(lambda: reader.look() == again, "it did not begin anew")

    late = reading()
    eventually(lambda: late.look() == [("delta", "one two ")])
    assert int(server.ttl(key_of(job))) > 90  # type: ignore[arg-type]


def test_who_never_reads_holds_one_batch_and_nobody_else_up(
    begin: Any, reading: Any, hub: Hub, eventually: Eventually
) -> None:
    idle, keen = reading(), reading()
    stream = begin()
    for number in range(20):
        stream.delta(f"{number} ")
        eventually(lambda last=f"{number} ": keen.text().endswith(last))

    # Its one batch waits to be taken; the rest is in Redis until then.
    assert not idle.subscription.is_hungry
    held = len(idle.subscription._batch)
    assert held < 20
    eventually(lambda: idle.look() == keen.look(), "a slow reader missed something")


def test_a_thousand_readers_share_one_connection(
    hub: Hub, begin: Any, server: redis.Redis, job: UUID, eventually: Eventually
) -> None:
    others = [Reading(hub, uuid4()) for _ in range(500)]
    same = [Reading(hub, job) for _ in range(500)]
    try:
        begin().delta("all of you")
        eventually(
            lambda: all(one.look() == [("delta", "all of you")] for one in same), "not all heard it"
        )
        assert not any(one.look() for one in others)
        assert len(server.client_list()) < 12
    finally:
        for one in (*others, *same):
            hub.leave(one.subscription)


def test_readers_in_threads_tasks_and_other_processes(
    url: str, begin: Any, job: UUID, eventually: Eventually
) -> None:
    program = (
        "import sys; from uuid import UUID; from worker.streams.reader import read\n"
        "for event in read(sys.argv[1], UUID(sys.argv[2])):\n"
        "    print(event.kind, event.text, flush=True)\n"
        "    if event.kind == 'done': break\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, url, str(job)], stdout=subprocess.PIPE, text=True
    )
    heard: dict[str, list[str]] = {"thread": [], "task": []}

    def in_thread() -> None:
        for event in read(url, job):
            heard["thread"].append(event.text)
            if event.kind == "done":
                return

    async def in_task() -> None:
        async for event in aread(url, job):
            heard["task"].append(event.text)
            if event.kind == "done":
                return

    threads = [
        threading.Thread(target=in_thread),
        threading.Thread(target=asyncio.run, args=(in_task(),)),
    ]
    for thread in threads:
        thread.start()
    stream = begin()
    for piece in ("a ", "b ", "c "):
        stream.delta(piece)
    stream.done()
    for thread in threads:
        thread.join(10)

    assert "".join(heard["thread"]) == "".join(heard["task"]) == "a b c "
    with other:
        assert other.stdout is not None
        assert "".join(line.partition(" ")[2].rstrip("\n") for line in other.stdout) == "a b c "


def test_who_is_told_to_stop_stops(url: str, job: UUID) -> None:
    async def count_events() -> int:
        return len([event async for event in aread(url, job, stop=lambda: True)])

    assert list(read(url, job, stop=lambda: True)) == []
    assert asyncio.run(count_events()) == 0


def test_no_call_waits_for_a_redis_that_does_not_answer() -> None:
    """The writer's own thread does, here for longer than the test has time."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.MonkeyPatch.context() as patch,
        ThreadPoolExecutor(1) as pool,
    ):
        patch.setattr("worker.streams.writer._PATIENCE", 1000.0)
        writer = StreamWriter(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        streams = [writer.open(uuid4(), 1, number) for number in range(50)]

        def call() -> None:
            for _ in range(100):
                for stream in streams:
                    stream.delta("text")
            for stream in streams:
                stream.done()
            writer.close(timeout=0.2)

        calls = pool.submit(call)
        with silent.accept()[0] as connection:
            assert connection.recv(1)
            calls.result(timeout=30)
            # Nobody waits for it at the end either: it is still at it.
            assert writer._thread is not None
            assert writer._thread.is_alive()


def test_a_key_that_is_no_stream_stops_that_job_and_no_other(
    begin: Any, writer: StreamWriter, reading: Any, server: redis.Redis, eventually: Eventually
) -> None:
    other = uuid4()
    server.set(key_of(other), "taken")
    reader = reading()
    spoiled, sound = writer.open(other, 1, next(_calls)), begin()
    spoiled.delta("nowhere")
    eventually(lambda: spoiled.over, "it is still tried")
    sound.delta("text")
    eventually(lambda: reader.look() == [("delta", "text")])
