"""From a dispatched row to a Celery message that carries nothing but the job's id."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from worker.engine.relay import Publish
from worker.storage.dispatch import Dispatched

log = structlog.get_logger(__name__)

#: Once more over a fresh connection; then the row goes back and the relay waits.
_RETRY_POLICY = {"max_retries": 1, "interval_start": 0.0}


def publisher(app: Celery) -> Publish:
    """A function that publishes jobs through `app`'s connection pool."""

    def publish(jobs: Sequence[Dispatched]) -> int:
        sent = 0
        try:
            with app.producer_pool.acquire(block=True) as producer:
                for job in jobs:
                    _send(app, producer, job)
                    sent += 1
        except (OperationalError, OSError) as error:
            log.debug("publish failed", error=repr(error))
        return sent

    return publish


def _send(app: Celery, producer: object, job: Dispatched) -> None:
    # The reprs are what Flower shows as arguments; the body stays the bare id.
    shown = {"prompt_version": job.prompt_version, "user": job.user_id}
    app.send_task(
        job.task,
        args=(str(job.id),),
        task_id=str(job.id),
        producer=producer,
        retries=job.attempt,
        argsrepr=f"('{job.id}',)",
        kwargsrepr=repr({key: value for key, value in shown.items() if value}),
        retry=True,
        retry_policy=_RETRY_POLICY,
        ignore_result=True,
    )
