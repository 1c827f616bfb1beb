"""Who leads a request and who parks for it: the statements, interleaved by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, text

from tests.integration.sharing_world import (
    KEY,
    aside,
    count,
    enter,
    job,
    park,
    start,
    succeed,
)
from tests.integration.steps import dispatch
from worker.storage import cache, followers, leaders
from worker.storage.engine import autocommit, transaction
from worker.storage.leaders import Leader


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
