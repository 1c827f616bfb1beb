"""Workers that freeze, die, or are killed by their own jobs."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.system import System

Scale = Callable[[int, int], int]


def test_a_worker_that_wakes_up_after_its_lease_cannot_finish_what_others_have_finished(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    number = scale(50, 5)
    system.claude.configure(latency=1.5)
    (sleeper,) = fleet.start(CLAUDE_JOBS_CONCURRENCY=str(number))
    system.enqueue(number)
    system.running(number)

    sleeper.send_signal(signal.SIGSTOP)
    system.claude.configure(latency=0.0)
    fleet.start(CLAUDE_JOBS_CONCURRENCY=str(number))
    system.all_end()
    sleeper.send_signal(signal.SIGCONT)

    system.eventually(
        lambda: sleeper.log_text().count("claim lost") == number,
        lambda: f"not refused once each:\n{sleeper.log_tail(30)}",
    )
    system.assert_accounted_for()
    assert {tuple(job["outcomes"]) for job in system.jobs()} == {("lost", "ok")}
    assert {len(entries) for entries in system.requests().values()} == {2}
    assert {job["attempt"] for job in system.jobs()} == {1}
    assert sleeper.running


def test_jobs_of_workers_that_left_without_a_word_are_rescued(system: System, fleet: Fleet) -> None:
    # One slot each, so that each holds a job.
    system.claude.configure(latency=20)
    farewells = (
        (signal.SIGKILL,),
        (signal.SIGQUIT,),
        (signal.SIGINT, signal.SIGINT),
    )
    victims = fleet.start(len(farewells), CLAUDE_JOBS_CONCURRENCY="1")
    system.enqueue(len(victims))
    system.running(len(victims))

    system.claude.configure(latency=0.0)
    fleet.start()
    for victim, signals in zip(victims, farewells, strict=True):
        for one in signals:
            victim.send_signal(one)

    system.all_end(seconds=15)
    system.assert_accounted_for()
    assert system.summary() == {"succeeded": len(victims)}
    assert all(len(entries) <= 2 for entries in system.requests().values())


def test_a_job_that_kills_its_worker_every_time_fails_and_its_neighbours_finish(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    # The neighbours are in flight each time the process dies.
    system.claude.faults({"match": "slow", "delay": 0.5, "times": None})
    neighbours = system.enqueue(scale(200, 8), "slow")
    (poison,) = system.enqueue(1, "KILL ")
    fleet.start(app="tests.chaos.altered")

    system.eventually(
        lambda: fleet.tend() and system.all_final(),
        lambda: f"{system.summary()}, {[j['rescues'] for j in system.jobs()]}",
        seconds=90,
    )

    jobs = {job["id"]: job for job in system.jobs()}
    assert jobs[poison]["state"] == "failed"
    assert jobs[poison]["error"]["type"] == "worker_lost"
    assert jobs[poison]["rescues"] == 3
    assert jobs[poison]["outcomes"] == ["lost"] * 4
    assert [jobs[job]["state"] for job in neighbours] == ["succeeded"] * len(neighbours)
    assert fleet.exits == [-signal.SIGKILL] * 4
    system.assert_accounted_for()


def test_a_job_that_kills_its_worker_before_the_call_fails_too(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    if not scale(1, 0):
        pytest.skip("five starts of a worker: `make chaos` has the time")
    system.enqueue(1, "KILL_EARLY ")
    fleet.launch(app="tests.chaos.altered")

    system.eventually(
        lambda: (fleet.tend() and system.all_final()) or len(fleet.exits) > 4,
        system.unfinished,
        seconds=90,
    )

    (job,) = system.jobs()
    assert (job["state"], job["error"]["type"]) == ("failed", "worker_lost")
    assert len(fleet.exits) == 4
