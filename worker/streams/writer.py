"""Publishing what Claude writes, without the calls noticing.

One thread a process writes for all calls: every 50 ms at most it takes what they have appended
since and sends it in one pipeline, one entry a call. Writing from each call's own thread would cost
a round trip for every piece – a thousand streams are tens of thousands a second – and would make
Redis's bad moments the calls' own. Here a call appends to a list; that is all it ever does.

A text's first piece is not held back: somebody looks at an empty page. From then on its call rests
for 50 ms after each write, as all others do.

While Redis is away, nothing is sent; once it is back, each call that is still being written begins
its stream anew. A stream is a convenience: the result is in Postgres.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any
from uuid import UUID

import redis
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.streams.call import CallStream, Command

log = structlog.get_logger(__name__)

#: Between two writes to a stream (seconds): 20 a second, so that text is seen to flow.
INTERVAL = 0.05
#: Between two writes of first pieces: those of a burst go together (seconds).
_SOON = 0.005
#: Longer, and Redis counts as lost (seconds). No call waits for it, so it may be long: all streams
#: would be written anew for a server that was short of CPU for a moment.
_PATIENCE = 2.0
#: Before Redis is tried again (seconds).
_PAUSE = 1.0


class StreamWriter:
    """The process's writer; safe to use from any number of threads. Never raises, never waits.

    Args:
        redis_url: where the streams are.
        ttl_seconds: a stream that nothing is added to goes after so long.
        max_bytes: of one call, at most so much is kept in Redis; the rest is not published.
    """

    def __init__(
        self, redis_url: str, *, ttl_seconds: int = 600, max_bytes: int = 2_000_000
    ) -> None:
        self._client = redis.Redis.from_url(
            redis_url,
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
            # What is sent again by the client would be refused, had it arrived the first time.
            retry=Retry(NoBackoff(), 0),
        )
        self._ttl, self._max_bytes = ttl_seconds, max_bytes
        self._touched: deque[CallStream] = deque()
        self._wake = threading.Event()
        self._first: deque[CallStream] = deque()
        self._hurry = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failures = 0  # since the last time that Redis took something
        self._refused = False

    def open(self, job_id: UUID, attempt: int, call: int, reason: str = "") -> CallStream:
        """The stream of a call that begins now; readers clear what an earlier call has written.

        `reason` is what they are told of it, unless they have been told already. `call` is the id
        of the call's usage row: of all calls of a job, the latest has the highest.
        """
        if self._thread is None:
            self._start()
        return CallStream(
            job_id,
            attempt,
            call,
            self._touch,
            ttl_seconds=self._ttl,
            max_bytes=self._max_bytes,
            reason=reason,
        )

    def close(self, timeout: float = 1.0) -> None:
        """Write what is left, within `timeout` seconds, and end the thread."""
        self._stopping.set()
        self._wake.set()
        self._hurry.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
                self._thread.start()

    def _touch(self, stream: CallStream) -> None:
        if not stream.queued:
            stream.queued = True
            self._touched.append(stream)
            if not self._wake.is_set():
                self._wake.set()
        if stream.is_first:
            self._first.append(stream)
            self._hurry.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            last = self._stopping.is_set()
            started, worked = time.monotonic(), time.thread_time()
            self._first.clear()  # they are among those that were touched
            self._flush(self._taken(started, everything=last), started)
            if last:
                return
            if self._failures > 1:
                self._stopping.wait(_PAUSE)
                continue
            # Never more than half of a core: a process that has none left writes more rarely.
            worked = time.thread_time() - worked
            self._rest(max(started + INTERVAL, time.monotonic() + worked))

    def _rest(self, until: float) -> None:
        """Write nothing but first pieces."""
        while (left := until - time.monotonic()) > 0 and not self._stopping.is_set():
            if not self._hurry.wait(left):
                return
            self._hurry.clear()
            now = time.monotonic()
            first = [self._first.popleft() for _ in range(len(self._first))]
            self._flush([stream for stream in first if stream.rests_until <= now], now)
            self._stopping.wait(_SOON)

    def _taken(self, now: float, *, everything: bool) -> list[CallStream]:
        """The streams that there is something to write to; those that rest are left for later."""
        taken = []
        for _ in range(len(self._touched)):
            stream = self._touched.popleft()
            if stream.rests_until > now and not everything:
                self._touched.append(stream)
                self._wake.set()
                continue
            # Before its pieces are read: one that is appended meanwhile queues it again.
            stream.queued = False
            taken.append(stream)
        return taken

    def _flush(self, streams: list[CallStream], now: float) -> None:
        """Send what there is."""
        try:
            planned = [(stream, commands) for stream in streams if (commands := stream.commands())]
            if not planned:
                return
            for stream, _ in planned:
                stream.rests_until = now + INTERVAL
            answers = self._send([command for _, commands in planned for command in commands])
        except (RedisError, OSError) as error:
            for stream in streams:
                stream.rewrite()
            self._note(error)
            return
        except Exception:
            # Whatever it is: these calls are not published any further, and go on.
            log.exception("streams cannot be written")
            for stream in streams:
                stream.over = True
            return
        answer = iter(answers)
        problem: RedisError | None = None
        for stream, commands in planned:
            problem = stream.answered([next(answer) for _ in commands]) or problem
            if stream.refusal and not self._refused:
                self._refused = True  # once: it would be said of every call
                log.error("Redis refuses a stream", error=str(stream.refusal).splitlines()[0])
        self._note(problem)

    def _send(self, commands: list[Command]) -> list[Any]:
        # A key must not be made without its expiry, should the process be killed half-way.
        opens = any("MINID" in command for command in commands)
        with self._client.pipeline(transaction=opens) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipeline.execute(raise_on_error=False)

    def _note(self, problem: Exception | None) -> None:
        """Count failures; the first is tried again at once, since a connection may die idle."""
        if problem is not None:
            self._failures += 1
            if self._failures == 2:
                reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
                log.warning("Redis lost: nothing is published until it is back", error=reason)
        else:
            if self._failures > 1:
                log.info("Redis is back: replies are published again")
            self._failures = 0
