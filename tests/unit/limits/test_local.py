"""The buckets of one process, on a clock of the test's own."""

from __future__ import annotations

import pytest

from worker.limits.headers import Reading
from worker.limits.local import Local
from worker.limits.types import NOTHING, Buckets, Cost, Verdict

NAME = "claude-sonnet-5"
LIMITS = Buckets(600, 600_000, 240_000)
FULL = Reading(LIMITS, LIMITS)
SMALL = Cost(100, 10)


class World:
    """One of `processes` processes; `now` is in seconds."""

    def __init__(self, processes: int = 1, share: float = 1.0, cap: Buckets = NOTHING) -> None:
        self.now = 1000.0
        self.processes = processes
        self.local = Local({NAME: cap}, share, lambda: self.processes, lambda: self.now)

    def told(self, reading: Reading = FULL) -> World:
        self.local.settle(NAME, b"", NOTHING, reading, complete=False)
        self.local.restart()
        return self

    def admit(self, cost: Cost = SMALL, max_wait: float = 0.0) -> Verdict:
        return self.local.admit(NAME, cost, max_wait)

    def admitted(self) -> int:
        number = 0
        while self.admit().status == "admitted":
            number += 1
        return number


def test_nothing_is_known_at_first() -> None:
    assert World().admit().status == "unknown"


def test_it_starts_low_and_fills_at_the_limits_rate() -> None:
    world = World().told()
    assert world.admitted() == 0

    world.now += 10
    assert 99 <= world.admitted() <= 100


def test_a_process_uses_its_part_only() -> None:
    world = World(processes=4).told()
    assert world.admitted() == 0

    world.now += 10
    assert 24 <= world.admitted() <= 25


@pytest.mark.parametrize(
    "world", [World(share=0.5), World(cap=Buckets(300, None, None))], ids=["share", "cap"]
)
def test_shares_and_caps_count(world: World) -> None:
    world.told()
    assert world.admitted() == 0

    world.now += 10
    assert 49 <= world.admitted() <= 50


def test_waits_are_in_order_and_end_when_promised() -> None:
    world = World().told()
    waits = [world.admit(max_wait=10) for _ in range(5)]

    assert [verdict.wait for verdict in waits] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    world.now += 0.3
    turn = [world.local.confirm(NAME, v.ticket, SMALL, 10).wait == 0 for v in waits]
    assert turn[:3] == [True] * 3


def test_what_is_refused_takes_nothing() -> None:
    world = World().told()
    first = world.admit(Cost(300_000, 0), max_wait=1)
    again = world.admit(Cost(300_000, 0), max_wait=1)

    assert first.status == again.status == "refused"
    assert first.wait == again.wait == pytest.approx(30)


def test_a_released_place_is_given_back() -> None:
    world = World().told()
    first = world.admit(Cost(60_000, 0), max_wait=10)
    world.local.release(NAME, first.ticket)

    assert world.admit(Cost(60_000, 0), max_wait=10).wait == first.wait


def test_a_request_that_cost_less_makes_room() -> None:
    world = World().told()
    first = world.admit(Cost(60_000, 0), max_wait=10)
    world.local.settle(NAME, first.ticket, Buckets(1, 0, 0), FULL, complete=True)

    assert world.admit(Cost(60_000, 0), max_wait=10).wait == first.wait


def test_nothing_goes_while_closed_and_little_afterwards() -> None:
    world = World().told()
    world.now += 60
    world.local.reject(NAME, b"", Reading(), 7, ramp=False)

    assert world.admit().wait >= 7
    world.now += 6.9
    assert world.admitted() == 0
    world.now += 0.2
    assert world.admitted() <= 1


def test_a_ramp_limit_slows_the_refill_for_minutes() -> None:
    world = World().told()
    world.local.reject(NAME, b"", Reading(), 0, ramp=True)
    assert world.local.state(NAME).ramp == 0.5

    world.now += 75
    assert world.local.state(NAME).ramp == pytest.approx(0.75)
    world.now += 75
    assert world.local.state(NAME).ramp == 1


def test_one_that_can_never_fit_goes_when_the_bucket_is_full() -> None:
    world = World().told()
    world.now += 60

    assert world.admit(Cost(10_000_000, 0)).status == "admitted"
    assert world.admit(max_wait=100).wait > 0


def test_what_remains_at_the_server_is_an_upper_bound() -> None:
    world = World().told()
    world.now += 60
    nearly_empty = Reading(LIMITS, Buckets(31, 600_000, 240_000))
    world.local.settle(NAME, b"", NOTHING, nearly_empty, complete=False)

    assert world.admitted() == 1


def test_a_ticket_from_before_the_loss_queues_anew() -> None:
    world = World().told()
    old = world.admit(max_wait=10)
    world.local.restart()

    assert world.local.confirm(NAME, old.ticket, SMALL, 10).wait == pytest.approx(0.1)
