"""Bets and bounds: what they promise holds, on distributions that are known."""

from __future__ import annotations

import random
from bisect import bisect_right

import pytest

from worker.engine.sequential import (
    evidence,
    opening,
    savage_scores,
    score,
    score_bound,
    share_bound,
    wager,
)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 – no secret


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_a_bet_on_what_is_not_so_is_ever_won_tenfold_in_a_tenth_of_the_runs(share: float) -> None:
    rng, won = seeded(1), 0
    for _ in range(400):
        stakes, most = opening(), 0.0
        for _ in range(300):
            stakes = wager(stakes, rng.random() < share, share)
            most = max(most, evidence(stakes))
        won += most >= 10
    assert won <= 400 * 0.1


def test_a_bet_on_what_is_so_grows_and_does_not_overflow() -> None:
    stakes = opening()
    for _ in range(5_000):
        stakes = wager(stakes, 1, 0.05)
    assert 1e290 < evidence(stakes) < float("inf")


def test_a_bet_that_is_lost_over_and_over_is_worth_nothing() -> None:
    stakes = opening()
    for _ in range(50_000):
        stakes = wager(stakes, 0, 0.05)
    assert 0 <= evidence(stakes) < 1e-9


@pytest.mark.parametrize(("share", "calls"), [(0.02, 1000), (0.02, 50), (0.3, 200)])
def test_the_bound_of_a_share_is_exceeded_as_seldom_as_it_says(share: float, calls: int) -> None:
    rng, exceeded = seeded(1), 0
    for _ in range(400):
        hits = sum(rng.random() < share for _ in range(calls))
        exceeded += share > share_bound(hits, calls, 0.05)
    assert exceeded <= 400 * 0.05


def test_the_bound_of_a_share_at_its_ends() -> None:
    assert share_bound(0, 0, 0.01) == 1.0
    assert share_bound(10, 10, 0.01) == 1.0
    # (1 - p)^n = error, exactly.
    assert share_bound(0, 100, 0.01) == pytest.approx(1 - 0.01 ** (1 / 100))


@pytest.mark.parametrize("size", [50, 300])
def test_the_bound_of_scores_is_exceeded_as_seldom_as_it_says(size: int) -> None:
    """What new values score on average, given the old ones: of uniforms, by the gaps' widths."""
    rng, exceeded = seeded(1), 0
    scores = savage_scores(size)
    for _ in range(400):
        old = [0.0, *sorted(rng.random() for _ in range(size)), 1.0]
        mean = sum(s * (old[k + 1] - old[k]) for k, s in enumerate(scores))
        exceeded += mean > score_bound(size, 0.05)
    assert exceeded <= 400 * 0.05


def test_scores_are_1_on_average_and_ties_share_theirs() -> None:
    old = [1, 2, 2, 2, 5]
    scores = savage_scores(5)

    assert sum(scores) / 6 == pytest.approx(1)
    assert score(2, old) == pytest.approx(sum(scores[1:5]) / 4)
    for value in (0, 1.5, 3, 6):
        assert score(value, old) == pytest.approx(scores[bisect_right(old, value)])
