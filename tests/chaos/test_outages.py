"""Postgres goes away, or stands still, while Claude is thinking."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.chaos.fleet import Fleet, freeze, thaw
from tests.chaos.system import System

Scale = Callable[[int, int], int]


def passes(seconds: float) -> Callable[[], bool]:
    """A condition that comes true after so many seconds."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def test_replies_that_arrive_while_postgres_is_down_are_settled_when_it_returns(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    number, down = scale(100, 20), scale(20, 5)
    system.claude.configure(latency=2)
    workers = fleet.start(scale(2, 1), CLAUDE_JOBS_CONCURRENCY=str(number))
    system.enqueue(number)
    system.running(number)

    system.stack.postgres.kill()
    system.eventually(passes(down), "time stands still")
    assert system.claude.stats()["in_flight"] == 0
    system.stack.postgres.start()

    system.all_end()
    system.assert_one_call_each()
    system.assert_accounted_for()
    assert all(worker.running for worker in workers)


def test_nobody_is_taken_for_dead_because_postgres_stood_still(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    number, frozen = scale(100, 20), scale(20, 5)
    system.claude.configure(latency=frozen + 3)
    fleet.start(scale(2, 1), CLAUDE_JOBS_CONCURRENCY=str(number))
    system.enqueue(number)
    system.running(number)

    family = freeze(system.stack.postgres.pid)
    try:
        system.eventually(passes(frozen), "time stands still")
    finally:
        thaw(family)

    system.all_end()
    assert fleet.rescued_from() == []
    system.assert_one_call_each()
    system.assert_accounted_for()
