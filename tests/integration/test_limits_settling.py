"""What the limiter makes of responses: the debit corrected, other limits, nonsense."""

from __future__ import annotations

import math

import pytest

from tests.integration.limits_world import (
    LIMITS,
    World,
    admitted,
    headers,
    sent,
    settle,
    world,
)
from worker.limits.types import Buckets, Cost

__all__ = ["world"]  # the fixture


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
