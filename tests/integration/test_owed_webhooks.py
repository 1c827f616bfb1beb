"""Whatever ends a job, in the transaction that does it, owes its webhook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.integration import steps
from tests.integration.steps import ERROR, new_job, run
from worker.storage.control import cancel_jobs
from worker.storage.engine import transaction
from worker.storage.enqueue import NewJob, insert_jobs, insert_rejected
from worker.storage.rescue import MAX_RESCUES, rescue_expired

pytestmark = pytest.mark.usefixtures("producer")

URL = "https://user:pass@Shop.example:8443/hook?secret"


def succeed(connection: Connection, job: NewJob) -> None:
    steps.succeed(connection, *run(connection, job))


def fail(connection: Connection, job: NewJob) -> None:
    steps.fail(connection, *run(connection, job))


def cancel_running(connection: Connection, job: NewJob) -> None:
    steps.cancel(connection, *run(connection, job))


def cancel_between(connection: Connection, job: NewJob) -> None:
    held = run(connection, job)
    cancel_jobs(connection, [job.id])
    steps.requeue(connection, *held)


def cancel_queued(connection: Connection, job: NewJob) -> None:
    insert_jobs(connection, [job])
    cancel_jobs(connection, [job.id])


def rescue_once_too_often(connection: Connection, job: NewJob) -> None:
    run(connection, job)
    connection.execute(
        text("UPDATE jobs SET rescues = :most, lease_expires_at = now() - interval '1 s'"),
        {"most": MAX_RESCUES},
    )
    rescue_expired(connection, grace=0)


def reject(connection: Connection, job: NewJob) -> None:
    insert_rejected(connection, job, dict(ERROR))


def end_by_hand(connection: Connection, job: NewJob) -> None:
    insert_jobs(connection, [job])
    connection.execute(text("UPDATE jobs SET state = 'failed', finished_at = now()"))


ENDS: list[tuple[Callable[[Connection, NewJob], None], str]] = [
    (succeed, "succeeded"),
    (fail, "failed"),
    (cancel_running, "cancelled"),
    (cancel_between, "cancelled"),
    (cancel_queued, "cancelled"),
    (rescue_once_too_often, "failed"),
    (reject, "failed"),
    (end_by_hand, "failed"),
]


def test_whatever_ends_a_job_owes_its_webhook() -> None:
    for end, state in ENDS:
        with transaction() as connection:
            connection.execute(text("DELETE FROM jobs"))
            connection.execute(text("DELETE FROM webhook_deliveries"))
            end(connection, new_job())
            connection.execute(text("DELETE FROM jobs"))
            assert owed(connection) == []
            with connection.begin_nested() as savepoint:
                end(connection, new_job(webhook_url=URL))
                savepoint.rollback()
            assert owed(connection) == []
            job = new_job(webhook_url=URL)
            end(connection, job)
            assert owed(connection) == [(job.id, state, URL, "shop.example:8443")]
            connection.execute(text("UPDATE jobs SET finished_at = now()"))
            assert len(owed(connection)) == 1


def owed(connection: Connection) -> list[Any]:
    rows = connection.execute(text("SELECT job_id, state, url, host FROM webhook_deliveries"))
    return [tuple(row) for row in rows]


def test_what_does_not_end_a_job_owes_nothing() -> None:
    with transaction() as connection:
        held = run(connection, new_job(webhook_url=URL))
        steps.requeue(connection, *held)
        assert owed(connection) == []
