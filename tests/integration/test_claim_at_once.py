"""Claim and usage row in one statement: done as in two, or not at all."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from tests.integration.steps import CALL, TERMS, claim, dispatch, enqueue, new_job, open_usage
from worker.storage import control, releases
from worker.storage.claim import Claim, Hints, claim_and_open
from worker.storage.engine import autocommit, transaction

HINTS = Hints("t", "ann", "1.0", "m")


def dispatched(engine: Engine) -> UUID:
    job = new_job(user_id="ann", prompt_version="1.0", model="m")
    (job_id,) = enqueue(engine, job)
    with transaction(engine) as connection:
        dispatch(connection)
    return job_id


def at_once(
    engine: Engine, job_id: UUID, hints: Hints = HINTS, newest: int = 0
) -> tuple[Claim, int] | None:
    with autocommit(engine) as connection:
        return claim_and_open(connection, job_id, TERMS, hints, newest, CALL)


def rows(engine: Engine, job_id: UUID) -> tuple[str, list[tuple[object, ...]]]:
    """The job's state, and its usage rows but for what differs by itself."""
    with transaction(engine) as connection:
        of_job = {"id": job_id}
        state = connection.execute(text("SELECT state FROM jobs WHERE id = :id"), of_job)
        usage = connection.execute(
            text("""SELECT task, user_id, attempt, call, outcome, model, prompt, prompt_version,
                           prompt_sha256, variant, schema_sha256
                    FROM usage WHERE job_id = :id"""),
            of_job,
        )
        return state.scalar_one(), [tuple(row) for row in usage]


def test_it_does_what_the_two_steps_do(engine: Engine) -> None:
    job_id, other = dispatched(engine), dispatched(engine)
    taken = at_once(engine, job_id)
    with transaction(engine) as connection:
        reference = claim(connection, other)
        assert reference is not None
        open_usage(connection, reference)

    assert taken is not None
    by_itself = {"id": job_id, "token": job_id, "seconds_left": 0.0}
    assert replace(taken[0], **by_itself) == replace(reference, **by_itself)
    assert rows(engine, job_id) == rows(engine, other)


def test_of_two_messages_one_gets_the_job(engine: Engine) -> None:
    job_id = dispatched(engine)
    assert at_once(engine, job_id) is not None
    assert at_once(engine, job_id) is None
    assert len(rows(engine, job_id)[1]) == 1


@pytest.mark.parametrize(
    "hints",
    [
        HINTS._replace(task="other"),
        HINTS._replace(user_id=None),
        HINTS._replace(prompt_version="1.1"),
        HINTS._replace(model=None),
    ],
)
def test_hints_that_are_wrong_change_nothing(engine: Engine, hints: Hints) -> None:
    job_id = dispatched(engine)
    assert at_once(engine, job_id, hints) is None
    assert rows(engine, job_id) == ("dispatched", [])


def test_a_release_that_the_choice_does_not_know_of_changes_that(engine: Engine) -> None:
    job_id = dispatched(engine)
    with transaction(engine) as connection:
        newest = connection.execute(
            text("""INSERT INTO prompt_releases (prompt, kind, weights, sha256, allocation,
                                                 released_by, reason)
                    VALUES ('p', 'release', '{}', '{}', '[[]]', 'ada', '') RETURNING id""")
        ).scalar_one()
        assert releases.newest_id(connection) == newest

    assert at_once(engine, job_id, newest=newest - 1) is None
    assert rows(engine, job_id) == ("dispatched", [])
    assert at_once(engine, job_id, newest=newest) is not None


@pytest.mark.parametrize(("scope", "name"), [("all", ""), ("task", "t"), ("model", "m")])
def test_nothing_is_started_that_is_paused(engine: Engine, scope: str, name: str) -> None:
    job_id = dispatched(engine)
    with transaction(engine) as connection:
        control.pause(connection, "task", "other", reason="", by="ada")
        control.pause(connection, scope, name, reason="", by="ada")

    assert at_once(engine, job_id) is None
    assert rows(engine, job_id) == ("dispatched", [])
    with transaction(engine) as connection:
        control.resume(connection, scope, name)
    assert at_once(engine, job_id) is not None
