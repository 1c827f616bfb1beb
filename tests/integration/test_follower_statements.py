"""Those who wait for a request: completed, let go ahead, forgotten; interleaved by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine, text

from tests.integration.sharing_world import (
    KEY,
    OTHER,
    count,
    enter,
    job,
    start,
    succeed,
    waiting,
)
from tests.integration.steps import claim, open_usage
from worker.storage import cache, followers
from worker.storage.engine import autocommit, transaction


def test_a_cancellation_that_is_under_way_is_left_alone(engine: Engine) -> None:
    leader, usage_id = start(engine)
    ids = waiting(engine, 3)
    with autocommit(engine) as connection:
        succeed(connection, leader, usage_id)
    with engine.connect() as cancelling, cancelling.begin():
        cancelling.execute(
            text("UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE id = :id"),
            {"id": ids[0]},
        )
        with transaction(engine) as connection:
            ended = followers.complete(connection, KEY, leader.id, window=600)
        cancelling.commit()

    assert sorted(ended) == sorted(ids[1:])
    with transaction(engine) as connection:
        assert followers.complete(connection, KEY, leader.id, window=600) == []
    assert job(engine, ids[0])["state"] == "cancelled"
    assert count(engine, "results") == 3


def test_followers_are_completed_piece_by_piece_and_never_twice(engine: Engine) -> None:
    leader, usage_id = start(engine)
    waiting(engine, 2 * followers.PIECE + 10)
    with autocommit(engine) as connection:
        succeed(connection, leader, usage_id)

    def complete(_: int) -> int:
        with transaction(engine) as connection:
            return len(followers.complete(connection, KEY, leader.id, window=600))

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(complete, range(8)))

    assert sum(done) == 2 * followers.PIECE + 10
    assert max(done) == followers.PIECE
    assert count(engine, "results") == count(engine, "usage") == 2 * followers.PIECE + 11
    assert count(engine, "jobs WHERE state <> 'succeeded'") == 0


def test_an_old_result_is_given_to_those_who_came_before_it_only(engine: Engine) -> None:
    leader, usage_id = start(engine)
    (early,) = waiting(engine, 1)
    with autocommit(engine) as connection:
        succeed(connection, leader, usage_id)
    (late,) = waiting(engine, 1)
    with transaction(engine) as connection:
        ended = followers.complete(connection, KEY, leader.id, window=0)

    assert ended == [early]
    assert job(engine, late)["state"] == "queued"


def test_the_most_urgent_goes_ahead_once_and_takes_on_what_the_request_cost(
    engine: Engine,
) -> None:
    leader, _ = start(engine)
    enter(engine, leader)
    with transaction(engine) as connection:
        connection.execute(
            text("""
            UPDATE jobs SET state = 'failed', finished_at = now(), attempt = 4, rescues = 2,
                            claim_token = NULL""")
        )
    ids = waiting(engine, 3, max_attempts=3)
    with transaction(engine) as connection:
        connection.execute(text("UPDATE jobs SET priority = 7 WHERE id = :id"), {"id": ids[1]})
        seen = followers.situation(connection, KEY)
        assert seen is not None
        promoted = followers.promote(connection, KEY, seen, attempt=4, rescues=2)

    assert promoted == ids[1]
    row = job(engine, ids[1])
    assert (row["waits_for"], row["attempt"], row["rescues"]) == (None, 2, 2)
    with transaction(engine) as connection:
        now = followers.situation(connection, KEY)
        assert now is not None
        assert (now.leader, now.leader_token, now.leading) == (ids[1], None, False)
        assert followers.orphaned(connection) == [KEY]  # looked at, and found on its way


def test_one_process_at_a_time_looks_after_a_request(engine: Engine) -> None:
    with transaction(engine) as one, transaction(engine) as two:
        assert followers.try_lock(one, KEY)
        assert not followers.try_lock(two, KEY)
        assert followers.try_lock(two, OTHER)


def test_what_dead_workers_left_is_forgotten_unless_somebody_waits(engine: Engine) -> None:
    for key in (KEY, OTHER):
        enter(engine, start(engine)[0], key)
    alive, _ = start(engine)
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'queued', claim_token = NULL WHERE id <> :id"),
            {"id": alive.id},
        )
    enter(engine, alive, "a" * 64)
    waiting(engine, 1)

    with transaction(engine) as connection:
        assert followers.forget_leaders(connection) == 1
    with transaction(engine) as connection:
        left = connection.execute(text("SELECT request_sha256 FROM request_leaders")).scalars()
        assert set(left) == {KEY, "a" * 64}


def test_a_job_that_was_chosen_for_a_request_and_makes_another_says_so(engine: Engine) -> None:
    (follower,) = waiting(engine, 1)
    with transaction(engine) as connection:
        seen = followers.situation(connection, KEY)
        assert seen is not None
        followers.promote(connection, KEY, seen, attempt=0, rescues=0)
        connection.execute(text("UPDATE jobs SET state = 'dispatched'"))
    with transaction(engine) as connection:
        taken = claim(connection, follower)
        assert taken is not None

    assert enter(engine, taken, OTHER).elsewhere == [KEY]


def test_one_that_was_chosen_and_finds_a_result_tells_those_who_wait(engine: Engine) -> None:
    leader, usage_id = start(engine)
    waiting(engine, 2)
    with transaction(engine) as connection:
        seen = followers.situation(connection, KEY)
        assert seen is not None
        chosen = followers.promote(connection, KEY, seen, attempt=0, rescues=0)
        connection.execute(
            text("UPDATE jobs SET state = 'dispatched' WHERE id = :id"), {"id": chosen}
        )
        taken = claim(connection, chosen) if chosen else None
        assert taken is not None
        call = open_usage(connection, taken)
    with autocommit(engine) as connection:
        succeed(connection, leader, usage_id)
    standing = enter(engine, taken)
    assert standing.servable is not None

    with autocommit(engine) as connection:
        assert cache.serve(
            connection,
            taken,
            call,
            KEY,
            standing.servable,
            prompt="p",
            prompt_version="1",
            prompt_sha256="0",
            variant="pinned",
        )
    assert count(engine, "request_leaders") == 0
