"""The watchdog: quiet while a release is no worse, and soon heard when it is.

Fed as the loop feeds it: batch by batch, its state going through JSON between two looks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pytest

from worker.engine.baseline import Baseline, Reply
from worker.engine.watchdog import Alarm, Limits, Watch, parse_limits
from worker.errors import InvalidInput

OLD, NEW = "1.0", "1.1"


@dataclass(frozen=True)
class Version:
    """What a version's replies are like: shares, and lengths that are lognormal."""

    invalid: float = 0.02
    refused: float = 0.005
    sigma: float = 0.6
    length: float = 1.0
    cost: float = 1.0
    rambling: float = 0.0

    def replies(self, rng: random.Random) -> Iterator[Reply]:
        while True:
            luck = rng.random()
            tokens = 400 * self.length * rng.lognormvariate(0, self.sigma)
            if rng.random() < self.rambling:
                tokens *= 20
            cost = self.cost * (20_000 * rng.lognormvariate(0, 0.4) + 500 * tokens)
            outcome = "ok"
            if luck < self.refused:
                outcome = "refused" if luck < self.refused / 2 else "truncated"
            elif luck < self.refused + self.invalid:
                outcome = "invalid_output"
            yield Reply(outcome, round(tokens), round(cost))


STEADY = Version()


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 – no secret


def watched(
    rng: random.Random, old: Version = STEADY, size: int = 1000, versions: Sequence[str] = (NEW,)
) -> Watch:
    return Watch(versions, Baseline.of(OLD, islice(old.replies(rng), size)), Limits())


def feed(watch: Watch, calls: Iterable[tuple[str, Reply]], batch: int) -> tuple[list[Alarm], int]:
    """The first alarms, and how many calls had been looked at by then."""
    remaining, seen = iter(calls), 0
    while taken := list(islice(remaining, batch)):
        watch = resumed(watch)
        for version, reply in taken:
            watch.observe(version, reply)
        seen += len(taken)
        if alarms := watch.alarms():
            return alarms, seen
    return [], seen


def resumed(watch: Watch) -> Watch:
    """As another worker finds it."""
    fresh = Watch(watch.versions, watch.baseline, Limits())
    fresh.resume(json.loads(json.dumps(watch.progress())))
    return fresh


def of_new(replies: Iterable[Reply], number: int) -> Iterator[tuple[str, Reply]]:
    return ((NEW, reply) for reply in islice(replies, number))


# Nothing where there is nothing.


def test_no_alarm_in_10_000_steady_jobs_over_20_seeds() -> None:
    """The expectation is 20 × 1e-4 false alarms at most."""
    for seed in range(20):
        rng = seeded(seed)
        steady = replace(STEADY, sigma=[0.3, 0.6, 1.2][seed % 3], invalid=[0, 0.01, 0.05][seed % 3])
        batch = [20, 100, 1000][seed // 3 % 3]
        calls = of_new(steady.replies(rng), 10_000)
        assert feed(watched(rng, steady), calls, batch) == ([], 10_000)


@pytest.mark.parametrize("size", [50, 200, 1000])
def test_no_alarm_however_small_the_baseline_and_however_often_one_looks(size: int) -> None:
    for seed in range(10):
        rng = seeded(seed)
        calls = of_new(STEADY.replies(rng), 700)
        assert feed(watched(rng, size=size), calls, batch=3) == ([], 700)


@pytest.mark.parametrize(
    "slightly",
    [
        replace(STEADY, invalid=0.06),
        replace(STEADY, refused=0.05),
        replace(STEADY, length=1.4),
        replace(STEADY, cost=1.4),
    ],
)
def test_what_is_worse_by_less_than_the_bound_is_let_pass(slightly: Version) -> None:
    for seed in range(3):
        rng = seeded(seed)
        assert feed(watched(rng), of_new(slightly.replies(rng), 2000), batch=50) == ([], 2000)


def test_a_better_version_is_let_pass() -> None:
    rng = seeded(1)
    better = Version(invalid=0, refused=0, length=0.3, cost=0.3)
    assert feed(watched(rng), of_new(better.replies(rng), 3000), batch=50) == ([], 3000)


def test_replies_that_are_all_alike() -> None:
    alike = Version(invalid=0, refused=0, sigma=0)
    for factor, expected in ((1.0, []), (1.5, []), (1.6, ["length"])):
        rng = seeded(1)
        calls = of_new(replace(alike, length=factor).replies(rng), 500)
        alarms, _ = feed(watched(rng, alike), calls, batch=50)
        assert [alarm.metric for alarm in alarms] == expected


# Soon where there is something.


@pytest.mark.parametrize(
    ("metric", "also", "bad", "bound"),
    [
        ("validity", "", replace(STEADY, invalid=1.0), 20),
        ("validity", "", replace(STEADY, invalid=0.5), 60),
        ("refusals", "", replace(STEADY, refused=1.0), 20),
        ("refusals", "validity", replace(STEADY, refused=0.4), 100),
        ("length", "cost", replace(STEADY, sigma=0.3, length=3.0), 25),
        ("length", "cost", replace(STEADY, sigma=0.6, length=3.0), 100),
        ("length", "cost", replace(STEADY, sigma=0.3, length=2.0), 100),
        ("cost", "", replace(STEADY, cost=3.0), 60),
        ("length", "cost", replace(STEADY, rambling=0.3), 500),
    ],
)
def test_a_bad_version_is_found_within_so_many_jobs(
    metric: str, also: str, bad: Version, bound: int
) -> None:
    old = replace(STEADY, sigma=bad.sigma)
    for seed in range(20):
        rng = seeded(seed)
        alarms, seen = feed(watched(rng, old), of_new(bad.replies(rng), bound), batch=1)
        assert {alarm.metric for alarm in alarms} & {metric, also}, (seed, seen)


def test_the_batches_in_which_calls_are_looked_at_only_delay_it() -> None:
    bad = replace(STEADY, invalid=0.5)
    found = []
    for batch in (1, 7, 100):
        rng = seeded(3)
        found.append(feed(watched(rng), of_new(bad.replies(rng), 1000), batch)[1])
    assert found[0] <= found[1] <= found[2] == 100


def test_an_alarm_tells_the_numbers_and_is_told_once() -> None:
    rng = seeded(1)
    watch = watched(rng)
    alarms, seen = feed(watch, of_new(replace(STEADY, length=3.0).replies(rng), 100), batch=100)

    (alarm,) = (found for found in alarms if found.metric == "length")
    assert (alarm.version, alarm.baseline_calls, alarm.shared) == (NEW, 999, False)
    assert 90 < alarm.calls <= seen
    assert 2.5 < alarm.mean / alarm.baseline_mean < 3.5

    watch = resumed(watch)
    for reply in islice(replace(STEADY, length=3.0).replies(rng), 200):
        watch.observe(NEW, reply)
    assert {found.metric for found in watch.alarms()} == {"length", "cost"}
    assert resumed(watch).alarms() == []


def test_each_of_several_new_versions_is_watched() -> None:
    rng = seeded(1)
    watch = watched(rng, versions=("1.1", "1.2"))
    good, bad = STEADY.replies(rng), replace(STEADY, invalid=0.6).replies(rng)
    for _ in range(100):
        watch.observe("1.1", next(good))
        watch.observe("1.2", next(bad))

    assert [(alarm.version, alarm.metric) for alarm in watch.alarms()] == [("1.2", "validity")]


# What is not the release's doing.


def test_the_old_version_becoming_worse_at_the_same_time_is_said() -> None:
    rng = seeded(1)
    watch = watched(rng)
    trouble = replace(STEADY, refused=0.4).replies(rng)
    for number in range(200):
        watch.observe(OLD if number % 2 else NEW, next(trouble))

    assert {(alarm.metric, alarm.shared) for alarm in watch.alarms()} == {
        ("validity", True),
        ("refusals", True),
    }


def test_errors_of_the_network_and_other_versions_say_nothing() -> None:
    watch = watched(seeded(1))
    for outcome in ("overloaded", "timeout", "connection_error", "api_error", "interrupted"):
        watch.observe(NEW, Reply(outcome, 0, None))
    watch.observe("0.9", Reply("invalid_output", 10, 10))

    assert watch.calls == 0
    assert watch.progress()["tallies"].get("0.9") is None


def test_one_user_s_odd_inputs_are_no_alarm_but_several_users_are() -> None:
    rng = seeded(1)
    old = [
        replace(reply, user=n % 100) for n, reply in enumerate(islice(STEADY.replies(rng), 1000))
    ]
    bad = Reply("invalid_output", 400, 200_000)
    for users, expected in ((1, []), (3, []), (4, ["validity"])):
        watch = Watch([NEW], Baseline.of(OLD, old), Limits())
        for number in range(300):
            watch.observe(NEW, replace(bad, user=number % users))
        assert [alarm.metric for alarm in watch.alarms()] == expected


def test_where_few_users_are_the_traffic_each_call_counts() -> None:
    rng = seeded(1)
    old = [replace(reply, user=1) for reply in islice(STEADY.replies(rng), 1000)]
    watch = Watch([NEW], Baseline.of(OLD, old), Limits())
    for _ in range(20):
        watch.observe(NEW, Reply("invalid_output", 400, 200_000, user=1))

    assert [alarm.metric for alarm in watch.alarms()] == ["validity"]


def test_without_a_baseline_only_what_is_bad_by_any_measure_is_told() -> None:
    for share, expected in ((0.15, []), (0.5, ["validity"])):
        rng = seeded(1)
        watch = Watch([NEW], Baseline(), Limits())
        alarms, _ = feed(watch, of_new(Version(invalid=share, length=9).replies(rng), 1000), 50)
        assert [alarm.metric for alarm in alarms] == expected
        assert all(alarm.baseline_calls == 0 for alarm in alarms)


def test_replies_without_a_price_are_not_compared_by_cost() -> None:
    rng = seeded(1)
    old = [replace(reply, cost=None) for reply in islice(STEADY.replies(rng), 1000)]
    watch = Watch([NEW], Baseline.of(OLD, old), Limits())
    for reply in islice(replace(STEADY, cost=9.0).replies(rng), 200):
        watch.observe(NEW, reply)

    assert watch.alarms() == []


def test_looser_limits_let_a_dearer_version_pass() -> None:
    rng = seeded(1)
    watch = Watch(
        [NEW], Baseline.of(OLD, islice(STEADY.replies(rng), 1000)), Limits(cost=4.0, length=4.0)
    )
    for reply in islice(replace(STEADY, length=3.0).replies(rng), 2000):
        watch.observe(NEW, reply)

    assert watch.alarms() == []


def test_limits_of_one_release_are_read_and_what_is_wrong_with_them_is_said() -> None:
    assert parse_limits(["cost=6", "validity=12.5"]) == {"cost": 6.0, "validity": 12.5}
    for wrong, said in (
        ("price=6", "'price=6' is none of validity=…, refusals=…, length=…, cost=…"),
        ("cost", "'cost': a factor, between 1 and 1e\\+06"),
        ("cost=nan", "a factor"),
        ("length=0.5", "a factor"),
        ("refusals=200", "'refusals=200': points more, between 0 and 100"),
    ):
        with pytest.raises(InvalidInput, match=said):
            parse_limits([wrong])
