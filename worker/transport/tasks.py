"""Celery's tasks: one a kind of job, each running one attempt and telling Celery how it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn
from uuid import UUID

import celery
import structlog
from celery.exceptions import Ignore, Retry

from worker.engine.intake import adopt, job_id_for
from worker.engine.patience import persistently
from worker.engine.registry import AnyTask
from worker.engine.settling import Ended
from worker.errors import Failure, JobFailed
from worker.storage.claim import Hints
from worker.transport.publish import hints_of


class JobTask(celery.Task):  # type: ignore[misc]
    """Base of all tasks. Retries, results and time limits are Postgres's business, not Celery's."""

    Request = "worker.transport.request:JobRequest"
    abstract = True
    typing = False
    acks_late = True
    reject_on_worker_lost = True
    ignore_result = True
    max_retries = None

    #: The kind of job, for what handles a message before the task runs.
    kind: AnyTask


def register(
    app: celery.Celery,
    task: AnyTask,
    run_attempt: Callable[[AnyTask, UUID, Hints | None], Ended],
    ending: threading.Event,
) -> celery.Task:
    """Add `task` to `app`, under its own name; once `ending` is set, it waits for no outage."""

    def run(self: celery.Task, *args: Any, **values: Any) -> None:
        job_id = job_id_for(self.request.id)
        with structlog.contextvars.bound_contextvars(job=str(job_id), task=task.name):
            hints = hints_of(task.name, self.request.headers)
            if not _is_ours(args, values, job_id):
                headers = self.request.headers or {}
                user_id, cache = headers.get("user_id"), _is_wanted(headers.get("cache"))
                # Until the row exists, the message is all there is: it must not be acknowledged.
                failure = persistently(
                    lambda: adopt(task, job_id, args, values, user_id, cache), ending
                )
                if failure:
                    _fail(task, failure)
            _report(task, run_attempt(task, job_id, hints))

    return app.task(run, name=task.name, base=JobTask, bind=True, kind=task)


def _is_ours(args: tuple[Any, ...], values: dict[str, Any], job_id: UUID) -> bool:
    """Whether the message is the relay's: a bare id, whose row exists."""
    return not values and args == (str(job_id),)


def _is_wanted(header: object) -> bool:
    """What a `send_task` producer says of caching; anything but a plain no is a yes."""
    return str(header).lower() not in ("false", "0", "no")


def _report(task: AnyTask, ended: Ended) -> None:
    match ended.state:
        case "succeeded":
            return
        case "not_ours" | "cancelled":
            raise Ignore()
        case "retry" | "snoozed":
            # Raised, not published: the row's run_at brings the job back, the message is acked.
            assert ended.failure is not None  # noqa: S101 – every retry has its reason
            raise Retry(message=f"{ended.state}: {ended.failure.summary}", when=ended.after or 0.0)
        case "failed":
            _fail(task, ended.failure)


def _fail(task: AnyTask, failure: Failure | None) -> NoReturn:
    # Only what may be shown: the details are in jobs.error.
    summary = failure.summary if failure else "unknown"
    raise JobFailed(f"{task.name}: {failure.type if failure else 'error'}: {summary}")
