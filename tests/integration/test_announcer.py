"""What has ended in a process is said on `job_finished`, and holds up nobody."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.steps import new_job
from worker.engine.announcer import Announcer
from worker.storage.control import cancel_jobs
from worker.storage.engine import transaction
from worker.storage.enqueue import insert_jobs


@pytest.mark.usefixtures("producer")
def test_every_end_is_said_those_of_a_moment_together(environment: dict[str, str]) -> None:
    ids = [uuid4() for _ in range(500)]
    announcer = Announcer()
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as listener:
        listener.execute("LISTEN job_finished")
        announcer.start()
        for job_id in ids[:-1]:
            announcer.ended(job_id)
        assert heard(listener, len(ids) - 1) == set(map(str, ids[:-1]))

        announcer.ended(ids[-1])
        announcer.stop()
        assert heard(listener, 1) == {str(ids[-1])}


@pytest.mark.usefixtures("producer")
def test_what_people_cancel_is_said_when_that_is_committed(environment: dict[str, str]) -> None:
    job = new_job()
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as listener:
        listener.execute("LISTEN job_finished")
        with transaction() as connection:
            insert_jobs(connection, [job])
            cancel_jobs(connection, [job.id, uuid4()])
            assert heard(listener, 1, seconds=0) == set()
        assert heard(listener, 1) == {str(job.id)}


def heard(listener: psycopg.Connection[Any], number: int, *, seconds: float = 30) -> set[str]:
    return {n.payload for n in listener.notifies(timeout=seconds, stop_after=number)}
