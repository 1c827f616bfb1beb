"""One call's text on its way to Redis: which commands bring the stream up to date."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal
from uuid import UUID

from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError

from worker.streams.entries import Kind, Position, key_of

#: What an entry costs Redis besides its text, in bytes, roughly.
ENTRY_BYTES = 64

#: For how long a stream is kept once its job has ended: readers that are behind may finish it.
DONE_SECONDS = 60

#: What Redis says while it takes nothing from anybody.
_PASSING = (Unreachable, OutOfMemoryError, ReadOnlyError)

Command = tuple[str | bytes | int, ...]


class CallStream:
    """What is published of one call. Its methods neither block nor raise.

    The job's thread appends; the flusher's thread calls `commands` and `answered`. A piece is kept
    until the call ends – as the string that the reply is put together from, so it costs a pointer.
    Whatever happens to the stream in Redis, it can be written anew from its beginning.
    """

    def __init__(
        self,
        job_id: UUID,
        attempt: int,
        call: int,
        touch: Callable[[CallStream], None],
        *,
        ttl_seconds: int,
        max_bytes: int,
        reason: str = "",
    ) -> None:
        self._key = key_of(job_id)
        self._attempt = attempt
        self._call = call
        self._touch = touch
        self._reason = reason
        self._ttl, self._max_bytes = ttl_seconds, max_bytes
        self._pieces: list[str] = []
        self._end: tuple[Literal["retrying", "done"], str] | None = None
        #: Whether the flusher knows that there is something to write.
        self.queued = False
        #: Until when nothing is written to it, by the monotonic clock; the flusher's own.
        self.rests_until = 0.0
        #: Nothing more will be written.
        self.over = False
        #: Why, if Redis refused it for a reason that somebody must look after.
        self.refusal: RedisError | None = None
        self._begun = False
        self._written = 0  # pieces
        self._bytes = 0
        self._number = 0
        self._renew_at = 0.0
        self._touch(self)

    def delta(self, text: str) -> None:
        """Publish the next piece of the text."""
        if text:
            self._pieces.append(text)
            self._touch(self)

    @property
    def is_first(self) -> bool:
        """Whether the text's first piece has just come: somebody looks at an empty page."""
        return len(self._pieces) == 1

    def retrying(self, reason: str) -> None:
        """Say that the text will not become the result, and end this call's stream."""
        self._end = self._end or ("retrying", reason)
        self._touch(self)

    def done(self) -> None:
        """Say that the job has ended, after Postgres knows it."""
        self._end = self._end or ("done", "")
        self._touch(self)

    def commands(self) -> list[Command]:
        """What is to be sent to Redis now; the answers go to `answered`."""
        if self.over:
            return []
        commands: list[Command] = []
        if not self._begun:
            # In one step, unless the call is an older one: everything before this entry goes.
            position = Position(self._call, self._number)
            commands.append(self._add("begin", self._reason, "MINID", "=", str(position)))
            self._begun, self._written, self._bytes, self._renew_at = True, 0, 0, 0.0
        # The end first: whatever was written before it is in the list then.
        end, last = self._end, len(self._pieces)
        if self._written < last:
            text = self._cut("".join(self._pieces[self._written : last]))
            if text:
                commands.append(self._add("delta", text, "NOMKSTREAM"))
            self._written = last
        if end is not None:
            kind, reason = end
            trim = ("MINID", "=", str(Position(self._call, self._number)))
            commands.append(self._add(kind, reason, *(trim if kind == "retrying" else ())))
            self.over = True
        if commands:
            commands += self._expiry()
        return commands

    def answered(self, answers: Sequence[Any]) -> RedisError | None:
        """Take what Redis said to `commands`; an error means that it takes nothing now."""
        for answer in answers:
            if answer is None:
                # The stream is gone: flushed, expired or evicted.
                self.rewrite()
            elif isinstance(answer, _PASSING):
                self.rewrite()
                return answer
            elif isinstance(answer, RedisError):
                self.over = True
                if "equal or smaller" not in str(answer):
                    self.refusal = answer
                return None  # else a later call has begun, and this one is nobody's
        return None

    def rewrite(self) -> None:
        """Write everything anew the next time: nobody knows what Redis has of it.

        Not if the call is over: its readers hear of that from Postgres, or from the next call.
        """
        if self._end is not None:
            self.over = True
            return
        self._begun = False
        self._touch(self)

    def _cut(self, text: str) -> bytes:
        """As much of `text` as the stream may still take, as whole characters.

        Not trimmed at the other end: JSON without its beginning is of no use to anybody.
        """
        encoded = text.encode(errors="replace")
        room = self._max_bytes - self._bytes - ENTRY_BYTES
        if len(encoded) <= room:
            return encoded
        self._bytes = self._max_bytes
        return encoded[: max(room, 0)].decode(errors="ignore").encode()

    def _add(self, kind: Kind, text: str | bytes, *options: str) -> Command:
        position = str(Position(self._call, self._number))
        self._number += 1
        self._bytes += len(text) + ENTRY_BYTES
        fields = ("kind", kind, "attempt", self._attempt, "text", text)
        return ("XADD", self._key, *options, position, *fields)

    def _expiry(self) -> list[Command]:
        now = time.monotonic()
        if self._end is not None:
            done = self._end[0] == "done"
            return [("EXPIRE", self._key, min(DONE_SECONDS, self._ttl) if done else self._ttl)]
        if now < self._renew_at:
            return []
        self._renew_at = now + self._ttl / 2
        return [("EXPIRE", self._key, self._ttl)]
