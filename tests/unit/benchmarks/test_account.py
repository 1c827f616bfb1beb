"""What is called goodput, and the peer's static limiter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.account import MODELS, limits_for, parts, scaled, use_of
from benchmarks.plain.strategies import StaticLimiter

HAIKU, SONNET, OPUS = MODELS
COST = {model: {"input": 1000.0, "output": 100.0} for model in MODELS}


def used(admitted: int, rejected: int = 0) -> dict[str, dict[str, int]]:
    """What an account tells after so many requests on the model whose requests bind."""
    tokens = {"input_tokens": admitted * 1000, "output_tokens": admitted * 100}
    return {"claude-haiku-5": {"admitted": admitted, "rejected": rejected, **tokens}}


def test_each_class_is_bound_by_another_bucket() -> None:
    limits = limits_for(10, COST)

    assert limits["claude-haiku-5"]["requests"] == 600
    assert limits["claude-sonnet-5"]["input_tokens"] == 600_000
    assert limits["claude-opus-5"]["output_tokens"] == 60_000
    assert limits["claude-opus-5"]["requests"] == 6000
    assert scaled(limits, 0.5)["claude-haiku-5"]["requests"] == 300
    assert parts(limits, 0.25)[HAIKU] == [150, 1_500_000, 150_000]


def test_the_use_of_a_limit_is_what_grew_between_two_samples() -> None:
    limits = limits_for(10, COST)
    samples = [(0.0, used(100)), (10.0, used(200)), (20.0, used(250)), (30.0, used(400, 4))]

    use = use_of(HAIKU, limits, samples)

    assert use.used == pytest.approx(1.0)
    assert use.thirds == pytest.approx((1.0, 0.5, 1.5))
    assert (use.requests, use.rejected) == (304, 4)


def test_a_class_that_was_not_there_before_has_used_nothing_before() -> None:
    use = use_of(HAIKU, limits_for(10, COST), [(0.0, {}), (10.0, used(50))])

    assert use.used == pytest.approx(0.5)


def test_the_static_limiter_lets_a_burst_pass_and_then_waits() -> None:
    limiter = StaticLimiter([60.0, 6e6, 6e6])  # a request a second, ten at once

    waits = [limiter._enter() for _ in range(11)]

    assert [wait <= 0 for wait in waits] == [True] * 10 + [False]
    assert waits[-1] <= 1.0


def test_the_static_limiter_learns_what_a_call_uses() -> None:
    limiter = StaticLimiter([6000.0, 600.0, 6e6])  # ten tokens of input a second, a hundred at once
    reply: Any = SimpleNamespace(usage=SimpleNamespace(input_tokens=300, output_tokens=10))

    limiter.call(lambda: reply)

    assert limiter._enter() > 30  # 200 below zero, and 300 for the next
