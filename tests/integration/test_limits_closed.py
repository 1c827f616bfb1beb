"""Classes that a 429 or an overload closes, and how they open again."""

from __future__ import annotations

import pytest

from tests.integration.limits_world import (
    CLASS,
    MODEL,
    SMALL,
    World,
    admit,
    admitted,
    headers,
    held,
    sent,
    settle,
    world,
)
from worker.limits.types import Cost

__all__ = ["world"]  # the fixture


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
