"""Keeping payloads out of what Celery shows.

A `send_task` producer's message carries the input, and its headers a preview of it. Celery puts
that preview on events (Flower's pages, API and search) and whole bodies into log lines when it
cannot make sense of a message. Both go through the two classes here.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog
from celery.worker.request import Request

from worker.engine.intake import adopt, job_id_for, keep_unknown_task
from worker.storage.control import cancel_jobs
from worker.storage.engine import transaction
from worker.transport.events import EventGatheringConsumer

log = structlog.get_logger(__name__)


class JobRequest(Request):  # type: ignore[misc]
    """A request whose arguments are shown only if the relay wrote them."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        bare_id = f"('{self.id}',)"
        if self.argsrepr != bare_id:
            self._argsrepr = bare_id
            self._kwargsrepr = "{}"
            # The tracer reads the request's own copy when it reports an outcome.
            self._request_dict.update(argsrepr=bare_id, kwargsrepr="{}")

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """`revoke(terminate=True)`: threads cannot be killed, but the call can be ended."""
        self._cancel()

    def _announce_revoked(self, reason: str, *args: Any) -> None:
        # A revoked message is dropped by Celery. Its job must not wait for it for ever.
        super()._announce_revoked(reason, *args)
        self._cancel()

    def _cancel(self) -> None:
        job_id = job_id_for(self.id)
        args, values = self._message.payload[:2]
        if tuple(args) != (str(job_id),):
            adopt(self.task.kind, job_id, args, values)
        with transaction() as connection:
            states = cancel_jobs(connection, [job_id])
        log.warning("revoked: job cancelled", job=str(job_id), state=states.get(job_id, "final"))


class JobConsumer(EventGatheringConsumer):
    """A consumer that says which message it refuses, but never what was in it."""

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._refuse(message, "not a Celery task")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._refuse(message, f"malformed ({type(exc).__name__})")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._refuse(message, f"cannot be decoded ({type(exc).__name__})")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Keep the job of an unknown task as failed: once the task exists, it can be requeued."""
        name, message_id = message.headers["task"], message.headers["id"]
        args, values = message.payload[:2]
        job_id = job_id_for(message_id)
        if tuple(args) != (str(job_id),):
            keep_unknown_task(name, job_id, args, values, known=self._known_tasks())
        self._refuse(message, f"unknown task; there are {self._known_tasks()}")
        if self.event_dispatcher:
            self.event_dispatcher.send(
                "task-failed", uuid=message_id, exception=f"unknown task {name!r}"
            )

    def _known_tasks(self) -> str:
        return ", ".join(sorted(n for n in self.app.tasks if not n.startswith("celery.")))

    def _refuse(self, message: Any, reason: str) -> None:
        headers = message.headers or {}
        log.error(
            "message refused",
            reason=reason,
            name=headers.get("task"),
            message_id=headers.get("id"),
        )
        message.reject_log_error(logging.getLogger(__name__), self.connection_errors)
