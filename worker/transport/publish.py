"""From a dispatched row to a Celery message that carries nothing but the job's id.

`Celery.send_task` takes 0.2 ms a message to find out, anew each time, what is the same for all of
ours. So the message is made here: version 2 of Celery's protocol
(https://docs.celeryq.dev/en/stable/internals/protocol.html), which tests/unit/transport compares
with what `send_task` makes. It sends no `before_task_publish` signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from celery import Celery
from celery.utils.nodenames import anon_nodename
from kombu.exceptions import KombuError

from worker.engine.relay import Publish
from worker.storage.claim import Hints
from worker.storage.dispatch import Dispatched

log = structlog.get_logger(__name__)

#: The second try goes over a fresh connection: the first may have met one that had died idle.
_TRIES = 2

#: The header that lets a worker choose what a job runs with before it has read the row.
HINTS = "job_hints"

#: The arguments, and what else Celery lets a message carry: callbacks, chains. An id needs no
#: escaping.
_BODY = '[["%s"], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def publisher(app: Celery) -> Publish:
    """A function that publishes jobs through `app`'s connection pool, as one batch.

    Of a batch that fails nobody knows what was delivered. It counts as not sent: the jobs go
    back to the queue, and a message that did arrive finds no job to claim.
    """

    def publish(jobs: Sequence[Dispatched]) -> bool:
        for _ in range(_TRIES):
            try:
                with app.producer_pool.acquire(block=True) as producer:
                    send(app, producer, jobs)
            except (KombuError, OSError, *app.connection_for_write().connection_errors) as error:
                log.debug("publish failed", error=repr(error))
            else:
                return True
        return False

    return publish


def send(app: Celery, producer: Any, jobs: Sequence[Dispatched]) -> None:
    """Send a message a job to the default queue."""
    queue = app.amqp.default_queue
    producer.maybe_declare(queue)
    origin = anon_nodename()
    with producer.batch(max_size=len(jobs)):
        for job in jobs:
            producer.publish(
                _BODY % job.id,
                content_type="application/json",
                content_encoding="utf-8",
                headers=_headers(job, origin),
                routing_key=queue.name,
                delivery_mode=app.conf.task_default_delivery_mode,
                correlation_id=str(job.id),
                reply_to=app.thread_oid,
            )


def hints_of(task: str, headers: Mapping[str, Any] | None) -> Hints | None:
    """What a message says of its job; None if it does not."""
    match (headers or {}).get(HINTS):
        case [None | str() as user_id, None | str() as prompt_version, None | str() as model]:
            return Hints(task, user_id, prompt_version, model)
    return None


def _headers(job: Dispatched, origin: str) -> dict[str, Any]:
    # The reprs are what Flower shows as arguments; the body stays the bare id.
    shown = {"prompt_version": job.prompt_version or "current", "user": job.user_id}
    return {
        "lang": "py",
        "task": job.task,
        "id": str(job.id),
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": job.attempt,
        "timelimit": [None, None],
        "root_id": str(job.id),
        "parent_id": None,
        "argsrepr": f"('{job.id}',)",
        "kwargsrepr": repr({key: value for key, value in shown.items() if value}),
        "origin": origin,
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        HINTS: [job.user_id, job.prompt_version, job.model],
    }
