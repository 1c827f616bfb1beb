"""From a dispatched row to a Celery message that carries nothing but the job's id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import KombuError

from worker.engine.relay import Publish
from worker.storage.dispatch import Dispatched

log = structlog.get_logger(__name__)

#: The second try goes over a fresh connection: the first may have met one that had died idle.
_TRIES = 2


def publisher(app: Celery) -> Publish:
    """A function that publishes jobs through `app`'s connection pool, as one batch.

    Of a batch that fails nobody knows what was delivered. It counts as not sent: the jobs go
    back to the queue, and a message that did arrive finds no job to claim.
    """

    def publish(jobs: Sequence[Dispatched]) -> bool:
        for _ in range(_TRIES):
            try:
                with (
                    app.producer_pool.acquire(block=True) as producer,
                    producer.batch(max_size=len(jobs)),
                ):
                    for job in jobs:
                        _send(app, producer, job)
            except (KombuError, OSError, *app.connection_for_write().connection_errors) as error:
                log.debug("publish failed", error=repr(error))
            else:
                return True
        return False

    return publish


def _send(app: Celery, producer: Any, job: Dispatched) -> None:
    # The reprs are what Flower shows as arguments; the body stays the bare id.
    shown = {"prompt_version": job.prompt_version or "current", "user": job.user_id}
    app.send_task(
        job.task,
        args=(str(job.id),),
        task_id=str(job.id),
        producer=producer,
        retries=job.attempt,
        argsrepr=f"('{job.id}',)",
        kwargsrepr=repr({key: value for key, value in shown.items() if value}),
        retry=False,
        ignore_result=True,
    )
