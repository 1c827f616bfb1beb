"""Publishing an attempt as it goes, for jobs that were enqueued with `stream=True`."""

from __future__ import annotations

from typing import Protocol

from worker.engine.settling import Ended
from worker.storage.claim import Claim
from worker.streams.call import CallStream
from worker.streams.writer import StreamWriter


class Broadcast(Protocol):
    """What is told of an attempt to those who follow the job; never waits, never raises."""

    def begin(self, usage_id: int) -> None:
        """A call is about to be made: its text begins anew."""

    def delta(self, text: str) -> None:
        """The next piece of the call's text."""

    def retrying(self, reason: str) -> None:
        """The call's text will not become the result, for a reason that quotes nothing."""

    def end(self, ended: Ended) -> None:
        """The attempt has ended, and Postgres knows it."""


class Silence:
    """The broadcast of a job that nobody asked to stream."""

    def begin(self, usage_id: int) -> None: ...
    def delta(self, text: str) -> None: ...
    def retrying(self, reason: str) -> None: ...
    def end(self, ended: Ended) -> None: ...


class Published:
    """A broadcast through Redis. Of an attempt that made no call there is nothing to tell."""

    def __init__(self, writer: StreamWriter, claim: Claim) -> None:
        self._writer = writer
        self._claim = claim
        self._stream: CallStream | None = None
        self._why = ""

    def begin(self, usage_id: int) -> None:
        claim = self._claim
        self._stream = self._writer.open(claim.id, claim.attempt, usage_id, self._why)

    def delta(self, text: str) -> None:
        if self._stream is not None:
            self._stream.delta(text)

    def retrying(self, reason: str) -> None:
        # Said twice: what an ended call has said is gone as soon as the next one begins.
        self._why = reason
        if self._stream is not None:
            self._stream.retrying(reason)

    def end(self, ended: Ended) -> None:
        if self._stream is None:
            return
        match ended.state:
            case "succeeded" | "failed" | "cancelled":
                self._stream.done()
            case "retry" | "snoozed":
                reason = ended.failure.summary if ended.failure else ended.state
                self._stream.retrying(reason)
            case "not_ours":
                pass  # the worker that has the job now tells its story


def broadcast(writer: StreamWriter | None, claim: Claim) -> Broadcast:
    """The broadcast of an attempt; without a writer, nothing is published."""
    return Published(writer, claim) if claim.stream and writer is not None else Silence()
