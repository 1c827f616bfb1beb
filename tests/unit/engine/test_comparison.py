"""Comparing two versions: what is compared with what, and what is said about it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from worker.engine.comparison import ComparedJob, Comparison, Line, caution, compare

GOOD = ComparedJob("1.0", "release:1", "u", "ok", False, 400, 2000, frozenset(), 0.01)


def jobs(number: int, version: str = "1.0", seed: int = 1, **changes: object) -> list[ComparedJob]:
    """Jobs of as many users, of which 4 % are not valid, with lognormal lengths and costs."""
    rng = random.Random(f"{version} {seed}")  # noqa: S311 – no secret
    made = []
    for user in range(number):
        length = rng.lognormvariate(0, 0.5)
        outcome = "invalid_output" if rng.random() < 0.04 else "ok"
        made.append(
            replace(
                GOOD,
                version=version,
                user=user,
                outcome=outcome,
                repaired=outcome != "ok",
                tokens=round(400 * length),
                latency_ms=round(2000 * length),
                cost=0.01 * length,
                **changes,  # type: ignore[arg-type]
            )
        )
    return made


def line(found: Comparison, name: str) -> Line:
    return next(each for each in found.lines if each.name == name)


def compared(*groups: Iterable[ComparedJob]) -> Comparison:
    return compare("1.0", "1.1", [job for group in groups for job in group])


def test_a_clear_difference_is_told_for_each_measure() -> None:
    worse = [
        replace(
            job,
            outcome="invalid_output" if job.user % 3 == 0 else "ok",  # type: ignore[operator]
            repaired=job.user % 3 == 0,  # type: ignore[operator]
            failed_checks=frozenset({"has_dates"} if job.user % 3 == 0 else ()),  # type: ignore[operator]
            tokens=3 * (job.tokens or 0),
            latency_ms=3 * (job.latency_ms or 0),
            cost=3 * (job.cost or 0),
        )
        for job in jobs(400, "1.1")
    ]
    found = compared(jobs(400), worse)

    assert {each.name: each.verdict for each in found.lines} == {
        "valid at once": "B worse",
        "repaired": "B worse",
        "fails has_dates": "B worse",
        "refused": "no difference to be seen",
        "cut off": "no difference to be seen",
        "output tokens p50": "B longer",
        "output tokens p95": "B longer",
        "latency p50": "B slower",
        "latency p95": "B slower",
        "cost per job": "B dearer",
    }
    difference = line(found, "cost per job").difference
    assert difference is not None
    assert difference.low < 3 < difference.high
    assert 2.5 < difference.value < 3.5


def test_of_few_jobs_the_longest_says_nothing_of_a_95th_percentile() -> None:
    for seed in range(20):
        found = compared(jobs(15, seed=seed), jobs(15, "1.1", seed=seed))
        assert line(found, "output tokens p95").verdict == "too few jobs to tell"


def test_the_other_way_round_it_is_better() -> None:
    found = compared(jobs(400), [replace(job, cost=0.002) for job in jobs(400, "1.1")])
    assert line(found, "cost per job").verdict == "B cheaper"


def test_too_early_says_how_many_jobs_it_would_take_and_is_right() -> None:
    def with_invalid(number: int, version: str, share: float) -> list[ComparedJob]:
        every = [replace(GOOD, version=version, user=user) for user in range(number)]
        bad = round(share * number)
        return [replace(job, outcome="invalid_output") for job in every[:bad]] + every[bad:]

    early = compared(with_invalid(100, "1.0", 0.04), with_invalid(100, "1.1", 0.10))
    verdict = line(early, "valid at once").verdict
    assert verdict == "too early to say: about 420 more jobs"
    later = compared(with_invalid(315, "1.0", 0.04), with_invalid(315, "1.1", 0.10))
    assert line(later, "valid at once").verdict == "B worse"


def test_no_difference_asks_for_no_jobs() -> None:
    found = compared(jobs(200), [replace(job, version="1.1") for job in jobs(200)])
    assert {each.verdict for each in found.lines} == {"no difference to be seen"}


def test_a_handful_of_jobs_says_nothing() -> None:
    found = compared(jobs(400), jobs(9, "1.1"))
    assert line(found, "valid at once").verdict == "too few jobs: 9 of one version"


def test_nothing_to_compare_with() -> None:
    found = compared(jobs(40))
    assert line(found, "cost per job").verdict == "nothing to compare with"
    assert found.jobs == {"1.0": 40, "1.1": 0}


def test_only_jobs_of_a_release_that_served_both_are_compared_where_there_is_one() -> None:
    found = compared(
        jobs(300, variant="release:1"),
        jobs(150, variant="release:2"),
        jobs(50, "1.1", variant="release:2"),
        jobs(80, "1.1", variant="release:3"),
        jobs(20, "1.1", variant="highest"),
    )

    assert found.side_by_side
    assert found.jobs == {"1.0": 150, "1.1": 50}
    assert "side by side by release 2: who got which was left to chance" in found.notes[0]
    assert found.notes[1] == "400 jobs of other times are left out"


def test_shares_that_changed_between_releases_are_said() -> None:
    found = compared(
        jobs(90, variant="release:1"),
        jobs(10, "1.1", variant="release:1"),
        jobs(50, variant="release:2"),
        jobs(50, "1.1", variant="release:2"),
    )
    assert "releases 1, 2" in found.notes[0]
    assert "the shares changed" in found.notes[1]


def test_versions_of_different_times_are_compared_with_a_warning() -> None:
    found = compared(jobs(50, variant="release:1"), jobs(50, "1.1", variant="release:2"))
    assert not found.side_by_side
    assert found.notes[0].startswith("not served at the same time: inputs")


def test_jobs_of_few_users_are_said_to_be_so() -> None:
    found = compared(
        [replace(job, user=0) for job in jobs(100)],
        [replace(job, user=1) for job in jobs(100, "1.1")],
    )
    assert any("only 1 users got one of them" in note for note in found.notes)


def test_replies_that_never_came_are_not_held_against_a_version() -> None:
    lost = [replace(job, outcome=None, tokens=None) for job in jobs(100, "1.1")]
    found = compared(jobs(100), jobs(100, "1.1"), lost)
    first = line(found, "valid at once").b
    assert first is not None
    assert first.value > 0.9
    assert found.jobs["1.1"] == 200


def test_refused_replies_do_not_count_as_short_ones() -> None:
    refused = [replace(job, outcome="refused", tokens=1) for job in jobs(100, "1.1", seed=2)]
    found = compared(jobs(200), jobs(200, "1.1"), refused)
    assert line(found, "output tokens p50").verdict != "B shorter"
    assert line(found, "refused").verdict == "B worse"


def test_jobs_without_a_price_leave_the_cost_out() -> None:
    found = compared(jobs(50), [replace(job, cost=None) for job in jobs(50, "1.1")])
    assert line(found, "cost per job").verdict == "nothing to compare with"
    free = compared(jobs(50), [replace(job, cost=0.0) for job in jobs(50, "1.1")])
    assert line(free, "cost per job").verdict == "no ratio: one of them is 0"


@pytest.mark.parametrize("seed", range(3))
def test_versions_that_do_not_differ_seldom_seem_to(seed: int) -> None:
    """Ten lines of 95 % each: some of them seem to, in some of the runs."""
    seeming = [
        each.verdict
        for run in range(5)
        for each in compared(
            jobs(200, seed=100 * seed + run), jobs(200, "1.1", seed=100 * seed + run)
        ).lines
        if each.verdict.startswith("B ")
    ]
    assert len(seeming) <= 7
    assert "up to 40%" in caution(10)
