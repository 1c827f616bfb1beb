"""A job being watched: what happens to it, and how a broken stream goes on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal
from uuid import UUID

import httpx2
from pydantic import TypeAdapter
from pydantic_core import from_json

from claude_jobs_client.calls import job_id
from claude_jobs_client.errors import (
    JobNotEnded,
    TemporaryError,
    Unavailable,
    UnexpectedAnswer,
)
from claude_jobs_client.http import Request, check, parse, refusal
from claude_jobs_client.models import Job, JobError, Problem, T
from claude_jobs_client.retries import Retries

#: The gateway gives a sign of life every 15 s: after this its connection is lost (seconds).
_SILENCE = 40.0
#: A connection that lives for so long is a good one: failures are counted anew (seconds).
_STEADY = 5.0
#: An event can be as large as an output.
_MOST_EVENT_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of Claude's text as it is. `id` is where to go on: `stream(job, after=id)`."""

    id: str
    text: str
    kind: Literal["delta"] = "delta"


@dataclass(frozen=True, slots=True)
class Partial:
    """The JSON so far; not validated, and anything in it may still grow or change."""

    output: dict[str, Any]
    kind: Literal["partial"] = "partial"


@dataclass(frozen=True, slots=True)
class Retrying:
    """What was written so far will not become the result: clear it."""

    id: str
    attempt: int
    reason: str
    kind: Literal["retrying"] = "retrying"


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """The job has succeeded; `output` is what was validated and committed. Nothing follows."""

    output: T
    job: Job[T]
    kind: Literal["result"] = "result"


@dataclass(frozen=True, slots=True)
class Error:
    """The job has `failed` or was `cancelled`. Nothing follows."""

    state: str
    error: JobError | None
    job: Job[Any]
    kind: Literal["error"] = "error"


JobEvent = Delta | Partial | Retrying | Result[T] | Error


_WRITTEN: dict[str, TypeAdapter[Any]] = {
    "delta": TypeAdapter(Delta),
    "partial": TypeAdapter(Partial),
    "retrying": TypeAdapter(Retrying),
}
_END: TypeAdapter[Job[Any] | Problem] = TypeAdapter(Job[Any] | Problem)


class Following(Generic[T]):
    """One job's events, over as many connections as it takes; whoever has it does the connecting.

    Args:
        timeout: seconds until `JobNotEnded`; noticed at signs of life, so 15 s late at most.
        after: the id of the last event that was seen.
    """

    def __init__(
        self,
        job: Job[Any] | UUID | str,
        model: type[Job[T]],
        retries: Retries,
        timeout: float | None,
        after: str | None,
    ) -> None:
        self._id = job_id(job)
        self._model = model
        self._retries = retries
        self._timeout = timeout
        self._until = None if timeout is None else time.monotonic() + timeout
        self._after = after
        self._failures = 0
        self._since = 0.0
        #: Whether the last event was told.
        self.ended = False

    def request(self) -> Request:
        """The one that opens the next connection; raises like `silence`."""
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        if self._after is not None:
            headers["last-event-id"] = self._after
        path = f"/v1/jobs/{self._id}/events"
        return Request("GET", path, headers=headers, silence=self.silence())

    def silence(self) -> float:
        """For how long the connection may be silent (seconds).

        Raises:
            JobNotEnded: there is no time left.
        """
        if self._until is None:
            return _SILENCE
        left = self._until - time.monotonic()
        if left <= 0:
            raise JobNotEnded(f"job {self._id} has not ended after {self._timeout:g} s")
        return min(left, _SILENCE)

    def source(
        self,
        request: Request,
        answer: httpx2.Response,
        pieces: Iterable[bytes] | AsyncIterable[bytes],
    ) -> httpx2.EventSource:
        """The events in the `pieces` of an answer; raises like `http.check`."""
        check(request, answer)
        kind = answer.headers.get("content-type", "no type")
        if not kind.startswith("text/event-stream"):
            raise UnexpectedAnswer(f"{request}: {kind} is no stream of events: is base_url right?")
        # Around the pieces, as an `EventSource` shows no heartbeats: a job that is long in writing
        # nothing would have no timeout.
        self._since = time.monotonic()
        around = httpx2.Response(
            200, headers={"content-type": kind}, content=pieces, request=answer.request
        )
        return httpx2.EventSource(around, _MOST_EVENT_BYTES)

    def alive(self, piece: bytes) -> bytes:
        """Something came, if only a heartbeat; raises like `silence`."""
        if time.monotonic() - self._since >= _STEADY:
            self._failures = 0
        self.silence()
        return piece

    def cut(self, request: Request) -> Unavailable:
        """The error of a stream that ended in order, but before the job did."""
        return Unavailable(f"{request}: the stream ended before the job did")

    def take(self, request: Request, event: httpx2.ServerSentEvent) -> JobEvent[T] | None:
        """What an event tells; None for one that is not known, which a newer gateway may send."""
        try:
            told = self._told(request, event)
        except (ValueError, TypeError):  # no JSON, not the JSON that it should be, no object
            raise UnexpectedAnswer(f"{request}: a {event.event!r} is not as expected") from None
        if told is not None:
            self._failures = 0
            self._after = event.id or self._after
        return told

    def _told(self, request: Request, event: httpx2.ServerSentEvent) -> JobEvent[T] | None:
        if event.event in ("result", "error"):
            return self._end(request, event.data)
        if event.event not in _WRITTEN:
            return None
        values = {"id": event.id} | from_json(event.data)
        told: JobEvent[T] = _WRITTEN[event.event].validate_python(values)
        return told

    def _end(self, request: Request, data: str) -> JobEvent[T]:
        told = _END.validate_json(data)
        if isinstance(told, Problem):
            raise refusal(request, told)
        self.ended = True
        if told.state != "succeeded":
            return Error(told.state, told.error, told)
        job = parse(request, httpx2.Response(200, content=data), self._model)
        return Result(job.result(), job)

    def lost(self, error: TemporaryError) -> float:
        """The connection broke, or there was none: seconds until the next one.

        Raises:
            TemporaryError: that was the last.
        """
        self._failures += 1
        pause = self._retries.pause(self._failures, error)
        if pause is None:
            raise error
        return pause if self._until is None else min(pause, self.silence())
