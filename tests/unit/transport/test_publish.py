"""The messages we make are those that Celery would make: a new Celery that differs fails here."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from worker.storage.claim import Hints
from worker.storage.dispatch import Dispatched
from worker.transport.publish import HINTS, hints_of, send

JOB = Dispatched(
    uuid4(), "analyze_document", prompt_version="1.0", user_id="ann'a", model="m", attempt=2
)


@pytest.fixture
def app() -> Celery:
    app = Celery("queue", broker="memory://", set_as_current=False)
    app.conf.update(task_ignore_result=True, result_backend=None)
    return app


def sent_by_celery(app: Celery, job: Dispatched) -> dict[str, Any]:
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        app.send_task(
            job.task,
            args=(str(job.id),),
            task_id=str(job.id),
            producer=producer,
            retries=job.attempt,
            argsrepr=f"('{job.id}',)",
            kwargsrepr=repr({"prompt_version": job.prompt_version, "user": job.user_id}),
            retry=False,
            ignore_result=True,
            headers={HINTS: [job.user_id, job.prompt_version, job.model]},
        )
        return message(connection)


def sent_by_us(app: Celery, job: Dispatched) -> dict[str, Any]:
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        send(app, producer, [job])
        return message(connection)


def message(connection: Any) -> dict[str, Any]:
    """The one message in the default queue, decoded, without what it has by chance.

    That is its delivery tag, and the reprs among its properties: `send_task` leaves them there
    after it has put them into the headers, where they are read.
    """
    raw: dict[str, Any] = connection.default_channel._get("celery")
    for leftover in ("delivery_tag", "argsrepr", "kwargsrepr"):
        raw["properties"].pop(leftover, None)
    return raw | {"body": json.loads(b64decode(raw["body"]))}


def test_a_message_is_what_send_task_makes(app: Celery) -> None:
    assert sent_by_us(app, JOB) == sent_by_celery(app, JOB)


def test_a_batch_is_a_message_a_job_in_order(app: Celery) -> None:
    jobs = [Dispatched(uuid4(), "t", None, None, None, attempt=0) for _ in range(3)]
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        send(app, producer, jobs)
        sent = [message(connection) for _ in jobs]
    assert [one["headers"]["id"] for one in sent] == [str(job.id) for job in jobs]
    assert sent[0]["headers"]["kwargsrepr"] == "{'prompt_version': 'current'}"


def test_a_message_says_what_the_choice_depends_on(app: Celery) -> None:
    headers = sent_by_us(app, JOB)["headers"]
    assert hints_of("t", headers) == Hints("t", "ann'a", "1.0", "m")


@pytest.mark.parametrize(
    "headers", [None, {}, {HINTS: None}, {HINTS: "ann"}, {HINTS: ["ann"]}, {HINTS: [1, 2, 3]}]
)
def test_a_message_that_does_not_say_so_is_no_worse(headers: dict[str, Any] | None) -> None:
    assert hints_of("t", headers) is None
