"""Everything at once: workers are killed and servers restarted while Claude misbehaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from tests.chaos.fleet import Fleet
from tests.chaos.monkey import FAULTS, Monkey
from tests.chaos.system import System

Scale = Callable[[int, int], int]


def test_every_job_ends_once_and_every_request_is_accounted_for(
    system: System, fleet: Fleet, scale: Scale, rng: Random
) -> None:
    system.claude.configure(latency=1.0)
    system.claude.faults(*FAULTS)
    fleet.start(scale(4, 2), CLAUDE_JOBS_CONCURRENCY=str(scale(20, 8)))
    number = scale(3000, 150)
    system.enqueue(number)
    restarts = (float(scale(5, 4)), float(scale(20, 8)))
    kills = (float(scale(2, 4)), float(scale(5, 7)))
    monkey = Monkey(rng, fleet, kills=kills, restarts=restarts)

    # The last tenth ends in peace, lest the end of the test be a matter of luck.
    system.eventually(
        lambda: monkey.act() and system.count("finished_at IS NULL") <= number / 10,
        system.unfinished,
        seconds=scale(900, 90),
    )
    system.claude.clear_faults()
    system.eventually(lambda: fleet.tend() and system.all_final(), system.unfinished)

    assert monkey.killed
    assert {"Postgres", "Valkey"} <= set(monkey.restarted)
    system.assert_accounted_for()
    assert_extra_calls_were_in_flight_at_a_kill(system, fleet, monkey)


def assert_extra_calls_were_in_flight_at_a_kill(
    system: System, fleet: Fleet, monkey: Monkey
) -> None:
    """A call is made again only because its worker was killed, never because a server was away.

    Rescues may be committed without being logged, when the rescuer dies next: those count as due to
    a kill. A claim that was committed without the worker hearing of it is rescued as well, but it
    made no call.
    """
    received = system.requests()
    not_killed = Counter(job for job, pid in fleet.rescued_from() if pid not in monkey.killed)
    for job in system.jobs():
        job_id = str(job["id"])
        heard_of = len(job["outcomes"]) - job["outcomes"].count("lost")
        extra = len(received.get(job_id, [])) - heard_of
        assert extra <= job["rescues"] - not_killed[job_id], (job, received.get(job_id))
