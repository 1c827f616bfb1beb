"""What the client does, written once for both: generators that say what is to be done next.

Each yields a `Request`, and is sent the answer or the error that came of it; or a `Pause`. Who runs
it – `JobsClient` with a thread, `AsyncJobsClient` with an event loop – does that, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx2
from pydantic import BaseModel

from claude_jobs_client.errors import JobNotEnded, TemporaryError
from claude_jobs_client.http import Request, check, lost, parse
from claude_jobs_client.models import BatchItem, BatchOutcome, Job, JobPage, NewJob, Task, TaskList
from claude_jobs_client.retries import Retries

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

#: In one batch: as many as the gateway takes, and so many bytes (it takes 32 MB unless told).
_MOST_JOBS, _MOST_BYTES = 10_000, 3_000_000
#: In one `?wait=`: shorter than the idle timeout of any proxy (seconds).
_LONGEST_WAIT = 25.0
#: After that it has answered, or is gone (seconds).
_GRACE = 10.0
#: A gateway that is about to stop answers at once: then the next look is not before this (seconds).
_LEAST_ROUND = 1.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


Step = Request | Pause
Reply = httpx2.Response | httpx2.RequestError | None
Call = Generator[Step, Reply, T]


def send(request: Request, model: type[M], retries: Retries, until: float | None = None) -> Call[M]:
    """Send a request until it is answered.

    Args:
        until: no try begins after this, by the monotonic clock.

    Raises:
        RequestRefused, TemporaryError, UnexpectedAnswer, OutputMismatch: as their texts say.
    """
    for tried in count(1):
        try:
            reply = yield request
            if isinstance(reply, httpx2.RequestError):
                raise lost(request, reply) from reply
            assert reply is not None  # noqa: S101
            check(request, reply)
            return parse(request, reply, model)
        except TemporaryError as error:
            pause = retries.pause(tried, error)
            if pause is None or (until is not None and time.monotonic() + pause > until):
                raise
        yield Pause(pause)
    raise AssertionError


def enqueue(job: NewJob, model: type[Job[T]], retries: Retries) -> Call[Job[T]]:
    """Enqueue one. Each try has the same idempotency key."""
    key = job.options.get("idempotency_key") or uuid4().hex
    request = Request("POST", "/v1/jobs", content=job.body(key))
    return (yield from _keyed(send(request, model, retries), key))


def enqueue_many(
    jobs: Iterable[NewJob], idempotency_key: str | None, retries: Retries
) -> Call[list[BatchItem]]:
    """Enqueue any number, in as many batches as it takes."""
    key, became = idempotency_key or uuid4().hex, list[BatchItem]()
    for body in _batches(jobs, key):
        request = Request("POST", "/v1/jobs/batch", content=body)
        outcome = yield from _keyed(send(request, BatchOutcome, retries), key)
        became += outcome.jobs
    return became


def _keyed(call: Call[M], key: str) -> Call[M]:
    """`call`, whose error tells the key with which it can be sent again."""
    try:
        return (yield from call)
    except TemporaryError as error:
        error.idempotency_key = key
        error.add_note(f"it may have been enqueued; to try again: idempotency_key={key!r}")
        raise


def _batches(jobs: Iterable[NewJob], key: str) -> Iterator[bytes]:
    """Bodies of requests. A job's key depends on its place alone, not on where a batch ends."""
    some, size = list[bytes](), 0
    for place, job in enumerate(jobs):
        body = job.body(f"{key}:{place}")
        if some and (len(some) == _MOST_JOBS or size + len(body) > _MOST_BYTES):
            yield _batch(some)
            some, size = [], 0
        some.append(body)
        size += len(body) + 1
    if some:
        yield _batch(some)


def _batch(bodies: list[bytes]) -> bytes:
    return b'{"jobs":[' + b",".join(bodies) + b"]}"


def job_id(job: Job[Any] | UUID | str) -> UUID:
    """The id of what names a job.

    Raises:
        ValueError: it is none.
    """
    if isinstance(job, Job):
        return job.id
    try:
        return job if isinstance(job, UUID) else UUID(job)
    except (ValueError, TypeError, AttributeError):  # the latter: what is no text at all
        raise ValueError("a job is named by its id, a UUID, or by a Job") from None


def job_model(job: Any, output: Any) -> Any:
    """The type of the answer: by `output`, or that of the job which was given, or plain JSON."""
    if output is not None:
        return Job[output]
    return type(job) if isinstance(job, Job) else Job[dict[str, Any]]


def read(job: Job[Any] | UUID | str, model: type[Job[T]], retries: Retries) -> Call[Job[T]]:
    """Read a job as it stands."""
    return send(Request("GET", f"/v1/jobs/{job_id(job)}"), model, retries)


def cancel(job: Job[Any] | UUID | str, model: type[Job[T]], retries: Retries) -> Call[Job[T]]:
    """Ask for a job's end."""
    return send(Request("DELETE", f"/v1/jobs/{job_id(job)}"), model, retries)


def wait(
    job: Job[Any] | UUID | str, model: type[Job[T]], timeout: float | None, retries: Retries
) -> Call[T]:
    """Wait for a job's end."""
    request = Request("GET", f"/v1/jobs/{job_id(job)}")
    until = None if timeout is None else time.monotonic() + timeout
    while True:
        begun = time.monotonic()
        left = _LONGEST_WAIT if until is None else max(until - begun, 0.0)
        asked = round(min(left, _LONGEST_WAIT), 3)
        waiting = replace(request, params={"wait": str(asked)}, silence=asked + _GRACE)
        found = yield from send(waiting, model, retries, until)
        if found.ended:
            return found.result()
        now = time.monotonic()
        if until is not None and now >= until:
            raise JobNotEnded(f"{found.task} {found.id} is {found.state} after {timeout:g} s")
        yield Pause(max(min(_LEAST_ROUND, asked) - (now - begun), 0.0))


def page(filters: dict[str, Any], model: type[JobPage[T]], retries: Retries) -> Call[JobPage[T]]:
    """Read one page of a listing."""
    params = {name: value for name, value in filters.items() if value is not None}
    return send(Request("GET", "/v1/jobs", params=params), model, retries)


def tasks(retries: Retries) -> Call[list[Task]]:
    """Read what tasks there are."""
    return (yield from send(Request("GET", "/v1/tasks"), TaskList, retries)).tasks
