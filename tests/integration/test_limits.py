"""The limiter on a real Valkey, on a clock of the tests' own."""

from __future__ import annotations

import math
import subprocess
import sys
import threading

import pytest

from tests.integration.limits_world import (
    CLASS,
    LIMITS,
    MODEL,
    SMALL,
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


# Settling.


def test_the_debit_is_corrected_by_what_was_used(world: World) -> None:
    limiter = world.told()
    before = world.state(limiter).levels
    limiter.settle(sent(limiter, Cost(1000, 1000)), Cost(3000, 200), {})

    after = world.state(limiter).levels
    assert after.input == pytest.approx((before.input or 0) - 3000)
    assert after.output == pytest.approx((before.output or 0) - 200)


def test_a_call_of_unknown_cost_keeps_its_debit_and_a_failed_one_wrote_nothing(
    world: World,
) -> None:
    limiter = world.told()
    before = world.state(limiter).levels.output or 0
    limiter.settle(sent(limiter, Cost(10, 1000)), None, {})
    assert world.state(limiter).levels.output == pytest.approx(before - 1000)

    limiter.failed(sent(limiter, Cost(10, 1000)), {})
    assert world.state(limiter).levels.output == pytest.approx(before - 1000)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_changed_limits_are_followed_at_once(world: World, factor: float) -> None:
    limiter = world.told()
    admitted(limiter)
    changed = tuple(int(limit * factor) for limit in LIMITS)
    world.now += 10
    settle(limiter, sent(limiter), headers(changed, (30, 100_000, 100_000)))

    assert world.state(limiter).limits == Buckets(*changed)
    world.now += 6
    admitted(limiter)
    world.now += 6
    assert admitted(limiter) == pytest.approx(60 * factor, abs=1)


def test_a_response_that_left_earlier_does_not_bring_back_old_limits(world: World) -> None:
    limiter = world.told()
    early = sent(limiter)
    world.now += 5
    late = sent(limiter)
    halved = tuple(limit // 2 for limit in LIMITS)
    settle(limiter, late, headers(halved))
    settle(limiter, early, headers(LIMITS))

    assert world.state(limiter).limits == Buckets(*halved)


def test_what_others_use_is_noticed(world: World) -> None:
    limiter = world.told()
    settle(limiter, sent(limiter), headers(remaining=(200, 600_000, 240_000)))

    assert world.state(limiter).levels.requests == pytest.approx(200, abs=5)
    assert world.state(limiter).levels.input == pytest.approx(600_000, rel=0.01)


def test_a_level_that_is_too_low_recovers(world: World) -> None:
    limiter = world.told(remaining=(40, 600_000, 240_000))
    for _ in range(60):
        world.now += 0.1
        settle(limiter, sent(limiter), headers())

    assert (world.state(limiter).levels.requests or 0) > 500


@pytest.mark.parametrize("order", [1, -1], ids=["as sent", "reversed"])
@pytest.mark.parametrize("counted", ["on arrival", "on completion"])
def test_the_order_of_responses_does_not_matter(world: World, order: int, counted: str) -> None:
    limiter = world.told()
    calls = []
    for number in range(200):
        left = (598 - number, 600_000 - 100 * (number + 2), 240_000)
        calls.append((sent(limiter), headers(remaining=left)))
    done = headers(remaining=(399, 580_000, 239_000))
    for reservation, response in calls[::order]:
        settle(limiter, reservation, response if counted == "on arrival" else done)

    levels = world.state(limiter).levels
    assert levels.requests == pytest.approx(399, abs=3)
    assert levels.input == pytest.approx(580_000, abs=3000)
    assert levels.output == pytest.approx(238_000, abs=3000)


HOSTILE = {
    "anthropic-ratelimit-requests-limit": "-5",
    "anthropic-ratelimit-requests-remaining": "NaN",
    "anthropic-ratelimit-input-tokens-limit": "1e400",
    "anthropic-ratelimit-input-tokens-remaining": "all",
    "anthropic-ratelimit-output-tokens-limit": "'); redis.call('FLUSHALL') --",
    "retry-after": "-1",
}


def test_nonsense_in_headers_changes_nothing(world: World) -> None:
    limiter = world.told()
    settle(limiter, sent(limiter), HOSTILE)

    assert world.state(limiter).limits == Buckets(*LIMITS)


@pytest.mark.parametrize("tokens", [math.nan, math.inf, -1.0, 1e300])
def test_nonsense_in_costs_breaks_nothing(world: World, tokens: float) -> None:
    limiter = world.told()
    world.now += 60
    limiter.settle(sent(limiter, Cost(tokens, tokens)), Cost(tokens, tokens), {})
    world.now += 60

    state = world.state(limiter)
    assert all(level is not None and math.isfinite(level) for level in state.levels)


# Closed.


def test_a_429_closes_the_class_to_all_processes(world: World) -> None:
    limiter, other = world.told(), world.limiter()
    refused, _ = sent(limiter), sent(limiter, Cost(560_000, 10))
    waiting = held(other, Cost(60_000, 10))
    limiter.rejected(refused, {**headers(), "retry-after": "7"}, "rate_limited")

    assert admit(other).reservation is None
    assert admit(other).wait >= 7
    assert other.confirm(waiting) >= 7
    assert world.state(other).closed_for == 7
    assert other.capacity([MODEL], 5) == {CLASS: 0}
    world.now += 6.9
    assert other.confirm(waiting) > 0
    assert admit(other).reservation is None


def test_a_class_reopens_low(world: World) -> None:
    limiter = world.told()
    response = {**headers(remaining=(0, 600_000, 240_000)), "retry-after": "7"}
    limiter.rejected(sent(limiter), response, "rate_limited")
    world.now += 7

    assert admitted(limiter) <= 1
    world.now += 6
    assert admitted(limiter) <= 60


def test_other_classes_stay_open(world: World) -> None:
    limiter = world.told()
    limiter.rejected(sent(limiter), {"retry-after": "7"}, "rate_limited")

    assert limiter.admit("claude-haiku-5-5", SMALL, 0).reservation is not None


def test_a_class_without_limits_can_be_closed_too(world: World) -> None:
    limiter, other = world.limiter(), world.limiter()
    settle(limiter, sent(limiter))
    limiter.rejected(sent(limiter), {"retry-after": "7"}, "rate_limited")

    assert admit(other).wait >= 7
    world.now += 7.001
    assert admit(other).wait == 0


def test_the_longest_retry_after_counts(world: World) -> None:
    limiter = world.told()
    first, second = sent(limiter), sent(limiter)
    limiter.rejected(first, {"retry-after": "20"}, "rate_limited")
    limiter.rejected(second, {"retry-after": "5"}, "rate_limited")

    assert world.state(limiter).closed_for == 20


@pytest.mark.parametrize(("value", "seconds"), [("", 5), ("nan", 5), ("1e12", 86_400), ("-3", 5)])
def test_a_senseless_retry_after_is_bounded(world: World, value: str, seconds: float) -> None:
    limiter = world.told()
    limiter.rejected(sent(limiter), {"retry-after": value}, "rate_limited")

    assert world.state(limiter).closed_for == seconds


def test_a_clock_that_jumps_back_keeps_nothing_closed_for_longer(world: World) -> None:
    limiter = world.told()
    limiter.rejected(sent(limiter), {"retry-after": "7"}, "rate_limited")
    world.now -= 3600
    assert admit(limiter).wait <= 8

    world.now += 8
    assert world.state(limiter).closed_for == 0


def test_a_ramp_limit_slows_the_growth_for_minutes(world: World) -> None:
    limiter = world.told()
    admitted(limiter)
    limiter.rejected(held(limiter), {"retry-after": "2"}, "ramp")
    ramp = world.state(limiter).ramp
    assert ramp <= 0.5
    world.now += 32
    grown = world.state(limiter).ramp
    assert ramp < grown < 1
    admitted(limiter)
    world.now += 6
    assert admitted(limiter) <= 60 * (grown + 0.05)

    world.now += 600
    assert world.state(limiter).ramp == 1


def test_a_second_ramp_limit_halves_the_growth_again(world: World) -> None:
    limiter = world.told()
    growths = []
    for _ in range(2):
        limiter.rejected(held(limiter), {"retry-after": "0"}, "ramp")
        before = world.state(limiter).ramp
        world.now += 10
        growths.append(world.state(limiter).ramp - before)

    assert growths[1] == pytest.approx(growths[0] / 2)


def test_an_overload_reduces_the_calls_in_flight_of_this_process(world: World) -> None:
    limiter, other = world.told(), world.limiter()
    calls = [sent(limiter) for _ in range(40)]
    for call in calls[:20]:
        limiter.rejected(call, {}, "overloaded")

    assert admit(limiter).reservation is None
    assert sent(other)
    assert world.state(limiter).closed_for == 0
    assert world.state(limiter).levels.output == pytest.approx(240_000 - 20 * 10 - 30, abs=30)
    for call in calls[20:]:
        settle(limiter, call, {})
    assert sent(limiter)


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
