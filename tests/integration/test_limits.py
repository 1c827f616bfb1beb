"""The limiter on a real Valkey, on a clock of the tests' own."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from tests.integration.limits_world import (
    CLASS,
    LIMITS,
    MODEL,
    World,
    admit,
    admitted,
    headers,
    held,
    sent,
    settings,
    settle,
    world,
)
from worker.limits.limiter import Limiter
from worker.limits.types import Buckets, Cost
from worker.limits.window import SLOW_START
from worker.setting_types import LimitCaps

__all__ = ["world"]  # the fixture


# Before anything is known.


def test_few_are_in_flight_until_the_first_response(world: World) -> None:
    limiter = world.limiter()
    first = [sent(limiter) for _ in range(SLOW_START)]
    late = admit(limiter, max_wait=30)

    assert late.reservation is not None
    assert late.wait > 0
    assert limiter.confirm(late.reservation) > 0
    settle(limiter, first[0], headers())
    assert limiter.confirm(late.reservation) == 0


def test_who_would_wait_too_long_for_slow_start_is_sent_away(world: World) -> None:
    limiter = world.limiter()
    for _ in range(SLOW_START):
        sent(limiter)

    assert admit(limiter, max_wait=0).reservation is None
    assert admit(limiter, max_wait=0).wait > 0


def test_a_server_that_names_no_limits_has_none(world: World) -> None:
    first, second = world.limiter(), world.limiter()
    assert first.capacity([MODEL], 10) == {CLASS: 2 * SLOW_START}
    settle(first, sent(first))

    assert admitted(first, most=100) == 100
    assert admitted(second, most=100) == 100
    assert first.capacity([MODEL, "claude-sonnet-5"], 10) == {CLASS: None}


def test_what_one_process_has_learned_all_know(world: World) -> None:
    world.told()
    other = world.limiter()

    assert world.state(other).limits == Buckets(*LIMITS)
    assert 550 < admitted(other) <= 600


# Never too many.


@pytest.mark.parametrize(
    ("cost", "most"),
    [(Cost(1, 1), 600), (Cost(6000, 1), 100), (Cost(1, 2400), 100)],
    ids=["requests", "input", "output"],
)
def test_each_bucket_binds(world: World, cost: Cost, most: int) -> None:
    limiter = world.told()

    assert most * 0.9 < admitted(limiter, cost) <= most
    world.now += 6
    assert most * 0.09 < admitted(limiter, cost) <= most * 0.1 + 1


def test_threads_of_several_processes_never_get_more_than_there_is(world: World) -> None:
    world.told()
    fleet = [world.limiter() for _ in range(4)]
    counts: list[int] = []

    def ask(number: int) -> None:
        limiter = fleet[number % 4]
        counts.append(sum(admit(limiter).reservation is not None for _ in range(60)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 550 < sum(counts) <= 600


PROCESS = """
import sys, time
from worker.limits.limiter import Limiter
from worker.limits.types import Cost
from worker.settings import Settings

limiter = Limiter(Settings(DATABASE_URL="postgresql://127.0.0.1:9/none", REDIS_URL=sys.argv[1]))
begin = time.time()
admitted = refused = 0
while refused < 20:
    if limiter.admit("claude-sonnet-5-5", Cost(100, 10), 0).reservation is None:
        refused += 1
    else:
        admitted += 1
print(begin, time.time(), admitted)
"""


def test_processes_on_the_servers_clock_never_get_more_than_there_is(world: World) -> None:
    real = Limiter(settings(world.url))
    settle(real, sent(real), headers())
    command = [sys.executable, "-c", PROCESS, world.url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    reports = [process.communicate()[0].split() for process in processes]
    real.close()

    begin = min(float(report[0]) for report in reports)
    end = max(float(report[1]) for report in reports)
    total = sum(int(report[2]) for report in reports)
    assert 550 < total <= 600 + 10 * (end - begin) + 1


def test_waits_are_first_come_first_served(world: World) -> None:
    limiter, other = world.told(remaining=(0, 600_000, 240_000)), world.limiter()
    queue = [(one, admit(one, max_wait=60)) for one in [limiter, other] * 10]
    waits = [admission.wait for _, admission in queue]

    assert waits == sorted(waits)
    assert waits[-1] - waits[0] == pytest.approx(1.9, abs=0.01)  # ten a second
    for one, admission in queue:
        assert admission.reservation is not None
        world.now = max(world.now, 1_000_000 + admission.wait)
        assert one.confirm(admission.reservation) == 0


def test_what_is_refused_takes_nothing(world: World) -> None:
    limiter = world.told(remaining=(600, 60_000, 240_000))
    before = world.state(limiter).levels
    refused = admit(limiter, Cost(300_000, 10), max_wait=1)

    assert refused.reservation is None
    assert refused.wait > 1
    assert world.state(limiter).levels == before


def test_a_request_that_can_never_fit_goes_when_the_bucket_is_full(world: World) -> None:
    limiter = world.told()
    world.now += 60

    assert sent(limiter, Cost(5_000_000, 10))
    assert admit(limiter).wait > 0


def test_a_released_place_is_given_back(world: World) -> None:
    limiter = world.told(remaining=(30, 600_000, 240_000))
    before = world.state(limiter).levels
    limiter.release(reservation := held(limiter))

    assert world.state(limiter).levels == before
    limiter.release(reservation)
    settle(limiter, reservation, headers())
    assert world.state(limiter).levels == before


# Settings.


def test_a_cap_bounds_what_is_learned_and_serves_before_it(world: World) -> None:
    caps = {"claude-sonnet-5-5": LimitCaps(requests=60)}
    limiter = world.limiter(caps=caps)
    assert world.limiter(caps=caps).capacity([MODEL], 30) == {CLASS: 30}
    world.now += 0.1
    held(limiter)
    assert world.state(limiter).limits == Buckets(60, None, None)
    world.now += 60
    settle(limiter, sent(limiter), headers())
    world.now += 60

    assert world.state(limiter).limits == Buckets(60, 600_000, 240_000)
    assert admitted(limiter) == 57


def test_a_share_is_of_rate_and_burst(world: World) -> None:
    settle(half := world.limiter(share=0.5), sent(half), headers())
    world.now += 60

    assert world.state(half).limits == Buckets(300, 300_000, 120_000)
    assert 280 < admitted(half) <= 300


# The fleet as seen from outside.


def test_capacity_is_what_the_horizon_has_room_for(world: World) -> None:
    limiter = world.told()
    for _ in range(100):
        settle(limiter, sent(limiter, Cost(2000, 10)), {}, Cost(2000, 10))
    world.now += 60

    assert limiter.capacity([MODEL], 0) == {CLASS: pytest.approx(285, abs=3)}
    assert limiter.capacity([MODEL], 12) == {CLASS: pytest.approx(345, abs=3)}
    assert limiter.capacity([MODEL, "claude-haiku-5-5"], 0)["claude-haiku-5"] == 2 * SLOW_START


def test_redis_holds_model_classes_and_numbers_only(world: World) -> None:
    limiter = world.told()
    limiter.rejected(sent(limiter), {"retry-after": "7"}, "rate_limited")

    assert world.redis.keys() == [world.key.encode()]
    assert len(world.redis.get(world.key)) < 1000
    assert 0 < world.redis.ttl(world.key) <= 86_400


def test_a_worker_that_was_killed_leaves_nothing_behind(world: World) -> None:
    lost, limiter = world.told(), world.limiter()
    while admit(lost).reservation is not None:
        pass
    lost.close()

    world.now += 60
    assert 550 < admitted(limiter) <= 600


def test_a_bucket_that_holds_little_is_used_all_the_same(world: World) -> None:
    """600 requests a minute, and no more than 20 at once: no header says so."""
    limiter = world.told(remaining=(20, 600_000, 240_000))
    world.now += 60  # idle: it is full, and holds 20

    assert admitted(limiter) == 15  # a quarter stays alone
    world.now += 1
    assert admitted(limiter) == 10
