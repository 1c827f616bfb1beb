"""Intervals: they hold what they promise where the truth is known, and match published examples."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Sequence

import pytest

from worker.engine.intervals import Estimate, mean_of, quantile, share, skewed_mean, wilson

RUNS = 400
#: 400 intervals of 95 % hold the truth 380 times, with a standard deviation of 4.4.
FEWEST = 365

Estimator = Callable[[Sequence[float], Sequence[Hashable]], Estimate]


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 – no secret


def alone(values: Sequence[float]) -> range:
    """Each job of a user of its own."""
    return range(len(values))


def held(truth: float, draw: Callable[[random.Random], Estimate]) -> int:
    """How many of the intervals hold the truth."""
    rng = seeded(1)
    return sum(not draw(rng).excludes(truth) for _ in range(RUNS))


@pytest.mark.parametrize(("truth", "size"), [(0.02, 300), (0.5, 50), (0.95, 200), (0.99, 400)])
def test_a_share(truth: float, size: int) -> None:
    def draw(rng: random.Random) -> Estimate:
        hits = [float(rng.random() < truth) for _ in range(size)]
        return share(hits, alone(hits))

    assert held(truth, draw) >= FEWEST


@pytest.mark.parametrize(("a", "b", "size"), [(0.95, 0.9, 150), (0.02, 0.02, 200), (0.5, 0.3, 60)])
def test_a_difference_of_shares(a: float, b: float, size: int) -> None:
    def draw(rng: random.Random) -> Estimate:
        of_a, of_b = (
            share(hits := [float(rng.random() < truth) for _ in range(size)], alone(hits))
            for truth in (a, b)
        )
        return of_b.minus(of_a)

    assert held(b - a, draw) >= FEWEST


@pytest.mark.parametrize("size", [15, 50, 300])
@pytest.mark.parametrize("part", [0.5, 0.95])
def test_a_quantile_of_skewed_values(part: float, size: int) -> None:
    truth = math.exp(0.8 * {0.5: 0.0, 0.95: 1.6449}[part])

    def draw(rng: random.Random) -> Estimate:
        values = [rng.lognormvariate(0, 0.8) for _ in range(size)]
        return quantile(values, alone(values), part)

    assert held(truth, draw) >= FEWEST


def test_a_ratio_of_means_of_skewed_costs() -> None:
    def draw(rng: random.Random) -> Estimate:
        a = [rng.lognormvariate(0, 0.8) for _ in range(200)]
        b = [1.5 * rng.lognormvariate(0, 0.8) for _ in range(200)]
        ratio = skewed_mean(b, alone(b)).divided_by(skewed_mean(a, alone(a)))
        assert ratio is not None
        return ratio

    assert held(1.5, draw) >= FEWEST


def test_users_whose_jobs_resemble_each_other() -> None:
    """60 users with ten jobs each, whose own share of valid replies is anything from 0.6 to 1."""

    def drawn(rng: random.Random) -> tuple[list[float], list[int]]:
        own = [rng.uniform(0.6, 1) for _ in range(60)]
        return [float(rng.random() < own[n % 60]) for n in range(600)], [n % 60 for n in range(600)]

    assert held(0.8, lambda rng: share(*drawn(rng))) >= FEWEST
    naive = held(0.8, lambda rng: share(drawn(rng)[0], range(600)))
    assert naive < held(0.8, lambda rng: share(*drawn(rng)))

    def costs(rng: random.Random) -> tuple[list[float], list[int]]:
        own = [rng.lognormvariate(0, 0.5) for _ in range(60)]
        values = [own[n % 60] * rng.lognormvariate(0, 0.3) for n in range(600)]
        return values, [n % 60 for n in range(600)]

    assert held(math.exp(0.5**2 / 2 + 0.3**2 / 2), lambda rng: skewed_mean(*costs(rng))) >= FEWEST
    assert held(1.0, lambda rng: quantile(*costs(rng), 0.5)) >= FEWEST


def test_wilson_s_interval_is_the_published_one() -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I."""
    found = wilson(81 / 263, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert wilson(0.0, 20).low == 0
    assert round(wilson(0.0, 20).high, 4) == 0.1611


def test_newcombe_s_interval_is_the_published_one() -> None:
    """Newcombe, "Interval estimation for the difference …", 1998, table II: 56/70 - 48/80."""
    found = wilson(56 / 70, 70).minus(wilson(48 / 80, 80))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


def test_the_variance_between_users_is_that_of_their_means_where_they_are_of_one_size() -> None:
    values, users = [1.0, 1.0, 3.0, 3.0, 8.0, 8.0], ["a", "a", "b", "b", "c", "c"]
    found = mean_of(values, users)
    means = [1.0, 3.0, 8.0]
    expected = sum((m - 4) ** 2 for m in means) / 2 / 3
    assert found.value == 4
    assert found.variance == pytest.approx(expected)
    assert found.design_effect > 1


def test_values_that_are_all_alike() -> None:
    assert share([1.0] * 50, range(50)).high == 1
    assert quantile([7.0] * 200, range(200), 0.95) == Estimate(7, 7, 7)
    assert skewed_mean([7.0] * 50, range(50)) == Estimate(7, 7, 7)
    assert skewed_mean([0.0] * 50, range(50)).divided_by(Estimate(1, 1, 1)) is None
    assert quantile([3.0], [1], 0.95) == Estimate(3, 3, math.inf)


def test_a_ratio_is_bounded_where_its_parts_are() -> None:
    known, open_above = Estimate(10, 8, 12), Estimate(20, 18, math.inf)
    ratio = open_above.divided_by(known)
    assert ratio is not None
    assert ratio.low > 1
    assert math.isinf(ratio.high)
    ratio = known.divided_by(open_above)
    assert ratio is not None
    assert ratio.low == 0
    assert ratio.high < 1
