"""Who leads a request and who waits for it: the statements, interleaved by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, text

from tests.integration.steps import claim, dispatch, enqueue, new_job, open_usage
from worker.storage import cache, followers, leaders, settle
from worker.storage.claim import Claim
from worker.storage.engine import autocommit, transaction
from worker.storage.leaders import Leader, Standing
from worker.storage.settle import CallRecord

KEY, OTHER = "k" * 64, "o" * 64


def start(engine: Engine, **options: Any) -> tuple[Claim, int]:
    """A job that has been claimed, with its usage row."""
    with transaction(engine) as connection:
        (job_id,) = enqueue(engine, new_job(**options))
        connection.execute(
            text("UPDATE jobs SET state = 'dispatched' WHERE id = :id"), {"id": job_id}
        )
    with transaction(engine) as connection:
        taken = claim(connection, job_id)
        assert taken is not None
        return taken, open_usage(connection, taken)


def enter(engine: Engine, taken: Claim, key: str = KEY, window: float = 600) -> Standing:
    with autocommit(engine) as connection:
        return leaders.enter(connection, taken, key, window)


def succeed(connection: Connection, taken: Claim, usage_id: int, key: str | None = KEY) -> Any:
    return settle.succeed(
        connection,
        taken,
        usage_id,
        CallRecord(outcome="ok", complete=True),
        output='{"a": 1}',
        prompt="p",
        prompt_version="1",
        prompt_sha256="0",
        model="m",
        request_sha256=key,
    )


def park(engine: Engine, follower: tuple[Claim, int], leader: Claim) -> str | None:
    seen = Leader(leader.id, leader.token, alive=True)
    with autocommit(engine) as connection:
        return leaders.park(connection, follower[0], follower[1], KEY, seen)


def job(engine: Engine, job_id: UUID) -> Any:
    with transaction(engine) as connection:
        found = connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id})
        return found.mappings().one()


def count(engine: Engine, what: str) -> int:
    with transaction(engine) as connection:
        return connection.execute(text(f"SELECT count(*) FROM {what}")).scalar_one()


@contextmanager
def aside(engine: Engine, act: Callable[[], Any]) -> Iterator[Future[Any]]:
    """`act` in a thread of its own, which waits for a lock when the block begins."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act)
        with autocommit(engine) as connection:
            blocked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            while not connection.execute(blocked).scalar_one():
                assert not future.done(), future.result()
        yield future


def test_of_many_that_come_at_once_one_leads(engine: Engine) -> None:
    started = [start(engine) for _ in range(20)]

    with ThreadPoolExecutor(10) as pool:
        standings = list(pool.map(lambda each: enter(engine, each[0]), started))

    leading = {standing.leader.token for standing in standings if standing.leader}
    assert len(leading) == 1
    assert all(standing.held and standing.leader.alive for standing in standings)
    assert leading < {taken.token for taken, _ in started}


def test_who_waited_for_a_leader_that_settles_sees_its_result(engine: Engine) -> None:
    """It must not lead: the INSERT waits until the leader's row is gone, and finds it free."""
    leader, usage_id = start(engine)
    enter(engine, leader)
    late, _ = start(engine)
    with engine.connect() as settling, settling.begin():
        assert succeed(settling, leader, usage_id) is not None
        with aside(engine, lambda: enter(engine, late)) as waiting:
            settling.commit()
            standing = waiting.result()

    assert standing.servable is not None
    assert standing.servable.job_id == leader.id


def test_who_parks_while_the_leader_settles_is_seen_or_is_told(engine: Engine) -> None:
    leader, usage_id = start(engine)
    enter(engine, leader)
    follower = start(engine)
    with engine.connect() as settling, settling.begin():
        success = succeed(settling, leader, usage_id)
        with aside(engine, lambda: park(engine, follower, leader)) as parking:
            settling.commit()
            assert parking.result() is None

    assert (success.followed, job(engine, follower[0].id)["state"]) == (False, "running")


def test_a_leader_that_settles_while_one_parks_is_told(engine: Engine) -> None:
    leader, usage_id = start(engine)
    enter(engine, leader)
    follower, call = start(engine)
    seen = Leader(leader.id, leader.token, alive=True)

    def settle_it() -> Any:
        with autocommit(engine) as connection:
            return succeed(connection, leader, usage_id)

    with engine.connect() as parking, parking.begin():
        assert leaders.park(parking, follower, call, KEY, seen) == "queued"
        with aside(engine, settle_it) as settling:
            parking.commit()
            assert settling.result().followed

    assert job(engine, follower.id)["waits_for"] == KEY
    with transaction(engine) as connection:
        assert followers.complete(connection, KEY, leader.id, window=600) == [follower.id]


def test_a_leader_that_gives_up_while_one_parks_is_told(engine: Engine) -> None:
    leader, _ = start(engine)
    enter(engine, leader)
    follower, call = start(engine)
    seen = Leader(leader.id, leader.token, alive=True)

    def give_up() -> bool:
        with autocommit(engine) as connection:
            return leaders.let_go(connection, leader, KEY)

    with engine.connect() as parking, parking.begin():
        assert leaders.park(parking, follower, call, KEY, seen) == "queued"
        with aside(engine, give_up) as giving_up:
            parking.commit()
            assert giving_up.result() is False


def test_parking_refunds_the_attempt_and_withdraws_the_call(engine: Engine) -> None:
    leader, _ = start(engine)
    enter(engine, leader)
    follower = start(engine)

    assert park(engine, follower, leader) == "queued"

    row = job(engine, follower[0].id)
    assert (row["state"], row["attempt"], row["claim_token"]) == ("queued", 0, None)
    assert count(engine, "usage") == 1
    with transaction(engine) as connection:
        assert dispatch(connection).jobs == []


def test_who_is_being_cancelled_does_not_wait(engine: Engine) -> None:
    leader, _ = start(engine)
    enter(engine, leader)
    follower = start(engine)
    with transaction(engine) as connection:
        connection.execute(text("UPDATE jobs SET cancel_requested = true"))

    assert park(engine, follower, leader) == "cancelled"

    row = job(engine, follower[0].id)
    assert (row["state"], row["waits_for"]) == ("cancelled", None)


def test_a_claim_that_was_lost_neither_parks_nor_is_served(engine: Engine) -> None:
    leader, usage_id = start(engine)
    enter(engine, leader)
    follower, call = start(engine)
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET claim_token = :token WHERE id = :id"),
            {"token": uuid4(), "id": follower.id},
        )

    assert park(engine, (follower, call), leader) is None
    assert not enter(engine, follower).held
    with autocommit(engine) as connection:
        succeed(connection, leader, usage_id)
    servable = enter(engine, start(engine)[0]).servable
    assert servable is not None
    with autocommit(engine) as connection:
        served = cache.serve(
            connection,
            follower,
            call,
            KEY,
            servable,
            prompt="p",
            prompt_version="1",
            prompt_sha256="0",
            variant="pinned",
        )
    assert served is None
    assert count(engine, "results") == 1


def test_of_those_who_find_a_dead_leader_one_takes_over(engine: Engine) -> None:
    leader, _ = start(engine)
    enter(engine, leader)
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'queued', claim_token = NULL WHERE id = :id"),
            {"id": leader.id},
        )
    started = [start(engine)[0] for _ in range(10)]
    seen = [enter(engine, taken).leader for taken in started]
    assert [each.alive for each in seen if each] == [False] * 10

    def take_over(number: int) -> bool:
        with autocommit(engine) as connection:
            return leaders.take_over(connection, started[number], KEY, seen[number])  # type: ignore[arg-type]

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(take_over, range(10))) == 1


def waiting(engine: Engine, number: int, **columns: Any) -> list[UUID]:
    """Jobs that wait for `KEY`."""
    ids = enqueue(engine, *(new_job() for _ in range(number)))
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET waits_for = :key WHERE id = ANY(:ids)"), {"key": KEY, "ids": ids}
        )
        for name, value in columns.items():
            connection.execute(
                text(f"UPDATE jobs SET {name} = :value WHERE id = ANY(:ids)"),
                {"value": value, "ids": ids},
            )
    return ids


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
