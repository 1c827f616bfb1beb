"""Which due jobs go out next, on a real Postgres."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from tests.integration.steps import claim, dispatch, dispatcher, enqueue, new_job
from worker.storage import control, read
from worker.storage.dispatch import MOST_USERS, recall
from worker.storage.engine import transaction


def test_jobs_are_dispatched_by_priority_and_then_by_age(engine: Engine) -> None:
    for priority in (100, 0, 32767, 5, 100, 5, 0, 100):
        enqueue(engine, *(new_job(priority=priority) for _ in range(5)))
    with transaction(engine) as connection:
        expected = connection.execute(
            text("SELECT array_agg((priority, run_at) ORDER BY priority, run_at) FROM jobs")
        ).scalar_one()

    sent: list[UUID] = []
    while len(sent) < 40:
        with transaction(engine) as connection:
            sent += [job.id for job in dispatch(connection, working_set=40, batch=7).jobs]

    with transaction(engine) as connection:
        rows = {
            row.id: row.urgency
            for row in connection.execute(
                text("SELECT id, (priority, run_at) AS urgency FROM jobs")
            )
        }
    assert [rows[job_id] for job_id in sent] == expected


def test_a_job_waits_for_its_time(engine: Engine) -> None:
    later, now = new_job(), new_job()
    enqueue(engine, later, now)
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET run_at = now() + interval '1 h' WHERE id = :id"), {"id": later.id}
        )
        batch = dispatch(connection)

    assert [job.id for job in batch.jobs] == [now.id]
    assert batch.look_again == "later"


def test_what_could_not_be_published_comes_back(engine: Engine) -> None:
    first, second = enqueue(engine, new_job(), new_job())
    with transaction(engine) as connection:
        dispatch(connection)
        assert claim(connection, second) is not None

        assert recall(connection, [first, second]) == 1

        assert read.outcome(connection, first)["state"] == "queued"
        assert read.outcome(connection, second)["state"] == "running"


def test_four_dispatchers_never_exceed_the_working_set_nor_send_a_job_twice(
    engine: Engine,
) -> None:
    bound, jobs = 250, 5_000
    enqueue(engine, *(new_job() for _ in range(jobs)))
    done = Event()
    finish = text("UPDATE jobs SET state = 'succeeded', finished_at = now() WHERE id = ANY(:ids)")
    waiting = text("SELECT count(*) FROM jobs WHERE state = 'dispatched'")
    left = text("SELECT count(*) FROM jobs WHERE state = 'queued'")

    def relay() -> list[UUID]:
        sent: list[UUID] = []
        while not done.is_set():
            with transaction(engine) as connection:
                batch = dispatch(connection, working_set=bound, batch=100)
            ids = [job.id for job in batch.jobs]
            with transaction(engine) as connection:
                # Workers take some now and the rest when there is no more room.
                connection.execute(
                    finish, {"ids": sent if batch.look_again == "soon" else ids[:30]}
                )
                if connection.execute(left).scalar_one() == 0:
                    done.set()
            sent += ids
        return sent

    def watch() -> list[int]:
        seen = []
        while not done.is_set():
            with transaction(engine) as connection:
                seen.append(connection.execute(waiting).scalar_one())
        return seen

    with ThreadPoolExecutor(5) as pool:
        watcher = pool.submit(watch)
        dispatchers = [pool.submit(relay) for _ in range(4)]
        sent = [job_id for future in dispatchers for job_id in future.result(120)]
        seen = watcher.result(10)

    assert len(sent) == len(set(sent)) == jobs
    assert max(seen) <= bound


def limits(**left: int | None) -> Any:
    """A capacity by model; models whose names end alike share one."""
    return lambda models: {m: (m[-1:], left.get(m[-1:])) for m in models}


def test_a_limit_that_is_used_up_holds_no_other_model_s_jobs(engine: Engine) -> None:
    enqueue(engine, *(new_job(priority=0) for _ in range(300)))  # on the task's model, m
    enqueue(engine, *(new_job(model="other-x", priority=200) for _ in range(3)))
    with transaction(engine) as connection:
        batch = dispatcher(limits(m=2)).dispatch(connection, 100)

    assert len(batch.jobs) == 5
    assert batch.look_again == "soon"


def test_models_of_one_class_share_its_limit_and_the_urgent_come_first(engine: Engine) -> None:
    slow = enqueue(engine, *(new_job(model="one-x", priority=9) for _ in range(5)))
    urgent = enqueue(engine, *(new_job(model="two-x", priority=1) for _ in range(3)))
    relay = dispatcher(limits(x=4))
    with transaction(engine) as connection:
        first, second = relay.dispatch(connection, 100), relay.dispatch(connection, 100)

    assert len(first.jobs) == 4
    assert {job.id for job in first.jobs} - set(slow) == set(urgent)
    # What was dispatched and not claimed yet has its share of the limit still before it.
    assert second.jobs == []


def test_a_user_has_no_more_than_so_many_jobs_at_once(engine: Engine) -> None:
    enqueue(engine, *(new_job(user_id="noisy", priority=0) for _ in range(10_000)))
    (quiet,) = enqueue(engine, new_job(user_id="quiet"))
    (nobody,) = enqueue(engine, new_job())
    relay = dispatcher(max_running_per_user=7)
    sent = []
    with transaction(engine) as connection:
        while True:
            batch = relay.dispatch(connection, 100)
            sent += batch.jobs
            if batch.look_again != "now":
                break
        claim(connection, sent[0].id)  # a running job counts like a dispatched one
        again = relay.dispatch(connection, 100)

    assert Counter(job.user_id for job in sent) == {"noisy": 7, "quiet": 1, None: 1}
    assert {quiet, nobody} <= {job.id for job in sent}
    assert again.jobs == []


def test_a_task_has_no_more_than_so_many_jobs_at_once(engine: Engine) -> None:
    enqueue(engine, *(new_job(task="t", priority=0) for _ in range(50)))
    enqueue(engine, *(new_job(task="u") for _ in range(5)))
    with transaction(engine) as connection:
        batch = dispatcher(max_running_per_task={"t": 3}).dispatch(connection, 100)

    assert Counter(job.task for job in batch.jobs) == {"t": 3, "u": 5}


def test_a_pause_holds_what_it_names(engine: Engine) -> None:
    enqueue(engine, new_job(task="t"), new_job(task="u"), new_job(task="u", model="m"))
    with transaction(engine) as connection:
        control.pause(connection, "model", "m", reason="", by="test")
        batch = dispatch(connection)

    # Task t runs on the model m unless a job says otherwise.
    assert [job.task for job in batch.jobs] == ["u"]
    assert batch.look_again == "later"


def test_what_somebody_else_has_locked_holds_up_nothing_behind_it(engine: Engine) -> None:
    locked = enqueue(engine, *(new_job(priority=0) for _ in range(10)))
    free = enqueue(engine, *(new_job() for _ in range(10)))
    relay = dispatcher()
    with engine.connect() as other:
        other.execute(text("SELECT id FROM jobs WHERE priority = 0 FOR UPDATE"))
        sent: list[UUID] = []
        for _ in range(3):
            with transaction(engine) as connection:
                sent += [job.id for job in relay.dispatch(connection, 10).jobs]

    assert set(sent) == set(free)
    with transaction(engine) as connection:
        looks = [relay.dispatch(connection, 10).jobs for _ in range(2)]
    assert {job.id for jobs in looks for job in jobs} == set(locked)


def test_jobs_of_the_far_future_do_not_hide_those_behind_them(engine: Engine) -> None:
    later = datetime.now(UTC) + timedelta(days=30)
    enqueue(engine, *(new_job(priority=0, run_at=later) for _ in range(1000)))
    (due,) = enqueue(engine, new_job())
    with transaction(engine) as connection:
        assert [job.id for job in dispatch(connection).jobs] == [due]


def test_users_share_a_limit_that_binds_before_their_own_bounds_do(engine: Engine) -> None:
    """One job a look, each over before the next: the bound of five is never met."""
    enqueue(engine, *(new_job(user_id="noisy") for _ in range(1000)))
    quiet = set(enqueue(engine, *(new_job(user_id="quiet") for _ in range(5))))
    relay = dispatcher(limits(m=1), max_running_per_user=5)
    sent: list[UUID] = []
    for _ in range(40):
        with transaction(engine) as connection:
            sent += [job.id for job in relay.dispatch(connection, 100).jobs]
            connection.execute(
                text(
                    "UPDATE jobs SET state = 'succeeded', finished_at = now() "
                    "WHERE state = 'dispatched' AND random() < 0.7"
                )
            )

    assert quiet <= set(sent)


def test_every_user_has_a_turn_however_many_there_are(engine: Engine) -> None:
    users = MOST_USERS * 2 + 50
    enqueue(engine, *(new_job(user_id=f"user-{n:04}") for n in range(users)))
    relay = dispatcher(max_running_per_user=1)
    sent: set[str | None] = set()
    with transaction(engine) as connection:
        for _ in range(12):
            sent |= {job.user_id for job in relay.dispatch(connection, 100).jobs}

    assert len(sent) == users
