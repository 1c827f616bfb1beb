"""Identical jobs over a fleet that is being attacked: one call, and everybody has the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from sandbox.claude.faults import Fault
from sandbox.service import Service
from tests.chaos.fleet import Fleet
from tests.chaos.system import System

_INSERT = """
INSERT INTO jobs (task, input, priority)
SELECT 'summarize_text', jsonb_build_object(
    'text', %(text)s::text, 'max_words', 50, 'audience', 'everybody'), %(priority)s
FROM generate_series(1, %(number)s)
RETURNING id
"""


@pytest.fixture
def system(new_system: Callable[..., Any]) -> Iterator[System]:
    """A system whose results are served again."""
    with new_system(CLAUDE_JOBS_CACHE_SECONDS="600") as fresh:
        yield fresh


def enqueue(system: System, number: int, text: str = "The fox.", priority: int = 100) -> list[Any]:
    """Insert jobs that are all alike."""
    rows = system.sql(_INSERT, number=number, text=text, priority=priority)
    return [row["id"] for row in rows]


def assert_all_share_one_result(system: System, number: int) -> None:
    """Each job has a result of its own, all equal, and a usage row; copies name their source."""
    rows = system.sql("""
        SELECT jobs.id, jobs.state, jobs.waits_for, results.output, results.source,
               results.source_job_id,
               (SELECT count(*) FROM usage
                WHERE usage.job_id = jobs.id AND usage.outcome = 'ok') AS ok
        FROM jobs LEFT JOIN results ON results.job_id = jobs.id""")
    assert len(rows) == number
    assert {row["state"] for row in rows} == {"succeeded"}
    assert {row["waits_for"] for row in rows} == {None}
    assert {row["ok"] for row in rows} == {1}
    originals = [row for row in rows if row["source"] == "api"]
    assert originals
    for row in rows:
        assert row["output"] == originals[0]["output"] or len(originals) > 1
        if row["source"] == "cache":
            assert row["source_job_id"] in {each["id"] for each in originals}
    assert system.sql("SELECT 1 FROM usage WHERE outcome = 'in_flight'") == []
    assert system.sql("SELECT 1 FROM jobs WHERE waits_for IS NOT NULL") == []


def test_a_thousand_identical_jobs_over_four_workers_make_one_call(
    system: System, fleet: Fleet
) -> None:
    system.claude.configure(latency=1.0)
    fleet.start(4)
    enqueue(system, 1000)

    system.all_end()

    assert len(system.claude.ledger()) == 1
    assert_all_share_one_result(system, 1000)


def test_a_leader_that_is_killed_costs_one_call_more(system: System, fleet: Fleet) -> None:
    system.claude.configure(latency=60.0)
    workers = fleet.start(4)
    enqueue(system, 1000)
    system.eventually(
        lambda: system.claude.stats()["in_flight"] == 1 and system.count("waits_for IS NULL") == 1,
        system.unfinished,
    )

    system.claude.configure(latency=0.2)
    fleet.kill(leading(system, workers))

    system.all_end()
    assert len(system.claude.ledger()) == 2
    assert_all_share_one_result(system, 1000)


def leading(system: System, workers: list[Service]) -> Service:
    """The worker whose job makes the request."""
    (row,) = system.sql("SELECT worker FROM jobs WHERE state = 'running'")
    pid = int(row["worker"].rpartition(":")[2])
    (worker,) = [each for each in workers if pid in family(each)]
    return worker


def family(worker: Service) -> set[int]:
    assert worker.process is not None
    process = psutil.Process(worker.process.pid)
    return {process.pid, *(child.pid for child in process.children(recursive=True))}


@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        (Fault(status=429, headers={"retry-after": "1"}, times=2), 3),
        (Fault(status=500, times=1), 2),
        (Fault(content="missing_field", times=1), 2),
    ],
    ids=["rate limited", "failing", "invalid"],
)
def test_what_befalls_the_leader_is_overcome_once_for_all(
    system: System, fleet: Fleet, fault: Fault, calls: int
) -> None:
    system.claude.configure(latency=0.5)
    system.claude.faults(fault)
    fleet.start(2)
    enqueue(system, 200)

    system.all_end()

    assert len(system.claude.ledger()) == calls
    assert_all_share_one_result(system, 200)


def test_redis_flushed_halfway_costs_nothing(system: System, fleet: Fleet) -> None:
    system.claude.configure(latency=3.0)
    fleet.start(2)
    enqueue(system, 300)
    system.eventually(
        lambda: system.count("state = 'queued' AND waits_for IS NOT NULL") > 50, system.unfinished
    )

    system.broker().flushdb()

    system.all_end()
    assert len(system.claude.ledger()) == 1
    assert_all_share_one_result(system, 300)


def test_postgres_killed_halfway_costs_one_call_more_at_most(system: System, fleet: Fleet) -> None:
    """It comes back without the table that says who leads; who waits is found all the same."""
    system.claude.configure(latency=4.0)
    fleet.start(2)
    enqueue(system, 300)
    system.eventually(
        lambda: system.count("state = 'queued' AND waits_for IS NOT NULL") > 100, system.unfinished
    )

    system.stack.postgres.kill()
    system.stack.postgres.start()

    system.all_end(90)
    assert len(system.claude.ledger()) <= 2
    assert_all_share_one_result(system, 300)


def test_a_request_that_kills_its_workers_does_so_four_times(system: System, fleet: Fleet) -> None:
    """Not four times for each job: followers take on what the request has done."""
    system.claude.configure(latency=0.3)
    fleet.start(1, app="tests.chaos.poisoned")
    poisoned = enqueue(system, 30, text="POISON")
    system.eventually(lambda: fleet.tend() and system.all_final(), system.unfinished, 120)

    rows = system.sql("SELECT state, error ->> 'type' AS error FROM jobs")
    assert [(row["state"], row["error"]) for row in rows] == [("failed", "worker_lost")] * len(
        poisoned
    )
    assert len(system.claude.ledger()) <= 5


def test_where_it_is_off_every_job_asks_and_nobody_is_left_waiting(
    new_system: Callable[..., Any],
) -> None:
    with new_system(CLAUDE_JOBS_CACHE_SECONDS="0") as system:
        enqueue(system, 20)
        system.sql("UPDATE jobs SET waits_for = 'what was shared before' WHERE random() < 0.5")
        fleet = Fleet(system)
        try:
            fleet.start(1)
            system.all_end()
        finally:
            fleet.stop()

        assert len(system.claude.ledger()) == 20
        assert system.sql("SELECT 1 FROM results WHERE request_sha256 IS NOT NULL") == []
        assert system.sql("SELECT 1 FROM request_leaders") == []
