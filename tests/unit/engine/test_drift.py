"""Drift: quiet while lengths are steady, whatever they look like, and quick when they shift."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import count

import pytest

from worker.engine.drift import LEARNING, RECENT, REFERENCE, History, Shift

Draw = Callable[[random.Random], float]

STEADY: dict[str, Draw] = {
    "lognormal 0.3": lambda rng: rng.lognormvariate(6, 0.3),
    "lognormal 0.6": lambda rng: rng.lognormvariate(6, 0.6),
    "lognormal 0.9": lambda rng: rng.lognormvariate(6, 0.9),
    "lognormal 1.2": lambda rng: rng.lognormvariate(6, 1.2),
    "bimodal": lambda rng: rng.gauss(*rng.choice([(150, 20), (2000, 200)])),
    "nearly constant": lambda rng: 12 if rng.random() < 0.97 else 13,
    "gamma": lambda rng: rng.gammavariate(2, 200),
    "heavy tail": lambda rng: min(8000, 50 * rng.paretovariate(1.1)),
    "1 to 3 tokens": lambda rng: rng.randint(1, 3),
}


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 – no secret


def shifts(history: History, lengths: Iterable[float]) -> list[Shift]:
    found = (history.observe(max(0, round(length))) for length in lengths)
    return [shift for shift in found if shift is not None]


def drawn(draw: Draw, rng: random.Random, number: int, factor: float = 1.0) -> Iterable[float]:
    return (factor * draw(rng) for _ in range(number))


def calls_until_found(draw: Draw, rng: random.Random, factor: float) -> int:
    """How many calls of the new length it takes, after 1,000 of the old."""
    history = History()
    assert shifts(history, drawn(draw, rng, 1000)) == []
    for number in count(1):
        if shifts(history, drawn(draw, rng, 1, factor)):
            return number
    raise AssertionError


def test_at_most_one_false_alarm_in_10_000_steady_calls() -> None:
    """180,000 calls: 18 alarms are allowed, 0.003 are to be expected."""
    alarms = [
        (name, seed, shift)
        for name, draw in STEADY.items()
        for seed in range(2)
        for shift in shifts(History(), drawn(draw, seeded(seed), 10_000))
    ]

    assert alarms == []


@pytest.mark.parametrize(
    ("name", "factor", "bound"),
    [
        ("lognormal 0.3", 2, 20),
        ("lognormal 0.6", 2, 100),
        ("lognormal 0.9", 2, 240),
        ("lognormal 1.2", 2, 400),
        ("bimodal", 2, 120),
        ("nearly constant", 2, 20),
        ("nearly constant", 1.5, 20),
        ("nearly constant", 0.5, 20),
        ("gamma", 2, 200),
        ("heavy tail", 2, 120),
        ("1 to 3 tokens", 2, 80),
        ("lognormal 0.3", 1.7, 40),
        ("lognormal 0.6", 0.4, 120),
        ("lognormal 1.2", 0.33, 400),
    ],
)
def test_a_shift_is_found_within_so_many_calls(name: str, factor: float, bound: int) -> None:
    needed = [calls_until_found(STEADY[name], seeded(seed), factor) for seed in range(12)]

    assert max(needed) <= bound, sorted(needed)


@pytest.mark.parametrize("factor", [1.25, 0.75])
def test_a_smaller_shift_is_none(factor: float) -> None:
    for seed in range(5):
        rng, history = seeded(seed), History()
        draw = STEADY["lognormal 0.3"]
        assert shifts(history, drawn(draw, rng, 1000)) == []
        assert shifts(history, drawn(draw, rng, 3000, factor)) == []


def test_a_slow_drift_is_found_although_no_two_days_differ() -> None:
    rng, draw = seeded(1), STEADY["lognormal 0.3"]
    lengths = (draw(rng) * (1 + number / 10_000) for number in range(8_000))

    assert len(shifts(History(), lengths)) == 1


def test_a_shift_is_told_once_and_then_learned() -> None:
    rng, history = seeded(1), History()
    draw = STEADY["lognormal 0.6"]
    shifts(history, drawn(draw, rng, 1000))

    (up,) = shifts(history, drawn(draw, rng, 3000, 3))
    (down,) = shifts(history, drawn(draw, rng, 3000))

    assert 2 < up.factor < 4
    assert up.before[1] * 1.5 <= up.after[1]
    assert 0.2 < down.factor < 0.5


def test_a_single_outlier_is_no_shift() -> None:
    history = History()

    assert shifts(history, [300] * 1000 + [128_000] + [300] * 1000) == []


def test_empty_replies_after_long_ones_and_long_ones_after_empty() -> None:
    for before, after in ((300, 0), (0, 300)):
        (found,) = shifts(History(), [before] * 500 + [after] * 100)
        assert (found.before[1], found.after[1], found.calls) == (before, after, 20)


def test_what_is_remembered_is_small_whatever_comes() -> None:
    history = History()

    shifts(history, drawn(STEADY["heavy tail"], seeded(3), 20_000))

    assert len(history.reference) == REFERENCE
    assert len(history.recent) == RECENT
    assert history.reference == sorted(history.reference)
    assert history.calls == 20_000


def test_nothing_is_said_while_learning() -> None:
    history = History()

    assert shifts(history, [10] * (LEARNING // 2) + [1000] * (LEARNING // 2)) == []
    assert history.recent == []
