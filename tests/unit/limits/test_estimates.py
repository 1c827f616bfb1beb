from __future__ import annotations

import threading

import pytest

from worker.limits.estimates import Estimates
from worker.limits.types import Cost


def test_the_first_estimate_goes_by_characters_and_a_short_answer() -> None:
    estimates = Estimates()

    assert estimates.estimate("a", 3500, 4096) == Cost(1000, 400)
    assert estimates.estimate("a", 3500, 100).output == 100


def test_estimates_follow_what_calls_of_the_version_cost() -> None:
    estimates = Estimates()
    for _ in range(200):
        estimates.learn("a", 1000, Cost(200, 50))

    cost = estimates.estimate("a", 5000, 4096)
    assert cost.input == pytest.approx(1000)
    assert cost.output == pytest.approx(50)
    assert estimates.estimate("b", 3500, 4096) == Cost(1000, 400)


def test_a_change_is_followed_within_some_dozens_of_calls() -> None:
    estimates = Estimates()
    for _ in range(200):
        estimates.learn("a", 1000, Cost(200, 50))
    for _ in range(100):
        estimates.learn("a", 1000, Cost(400, 500))

    assert estimates.estimate("a", 1000, 4096).input == pytest.approx(400, rel=0.02)
    assert estimates.estimate("a", 1000, 4096).output == pytest.approx(500, rel=0.02)


def test_a_short_prompt_does_not_distort_the_ratio() -> None:
    estimates = Estimates()
    estimates.learn("a", 100_000, Cost(25_000, 50))
    estimates.learn("a", 10, Cost(100, 50))

    assert estimates.estimate("a", 100_000, 4096).input == pytest.approx(25_000, rel=0.01)


def test_an_estimate_of_output_never_exceeds_max_tokens() -> None:
    estimates = Estimates()
    estimates.learn("a", 10, Cost(10, 5000))

    assert estimates.estimate("a", 10, 1000).output == 1000


def test_only_so_many_versions_are_remembered() -> None:
    estimates = Estimates()
    for number in range(1500):
        estimates.learn(str(number), 10, Cost(9, 9))

    assert estimates.estimate("0", 10, 4096).output == 400
    assert estimates.estimate("1499", 10, 4096).output == 9


def test_many_threads_may_learn_at_once() -> None:
    estimates = Estimates()

    def learn() -> None:
        for _ in range(500):
            estimates.learn("a", 1000, Cost(250, 80))
            estimates.estimate("a", 1000, 4096)

    threads = [threading.Thread(target=learn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert estimates.estimate("a", 1000, 4096) == Cost(pytest.approx(250), pytest.approx(80))
