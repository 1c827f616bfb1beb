"""The warm gate on two real workers: what a cold fan-out pays for its prefix."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from sandbox.claude.client import SimulatedClaude
from tasks import extract_entities
from tests.acceptance.caching import (
    HAIKU,
    TEXT,
    billed,
    fan_out,
    patient_claude,
    prompts,
    reads,
    share_of_uncached,
    system,
    version,
    versions,
    workers,
    writes,
)
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.storage.control import cancel_jobs
from worker.storage.engine import transaction

__all__ = ["patient_claude", "prompts", "system", "version"]  # fixtures


@pytest.fixture(scope="module")
def fleet(system: System) -> Iterator[Fleet]:
    """Two workers."""
    with workers(system) as fleet:
        yield fleet


@pytest.mark.usefixtures("fleet")
def test_a_cold_fan_out_of_a_hundred_pays_one_write(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    fan_out(100, version)
    system.all_end()

    entries = billed(claude)
    assert len(entries) == 100
    assert (len(writes(entries)), len(reads(entries))) == (1, 99)
    share = share_of_uncached(entries)
    assert share <= Decimal("0.07"), share
    assert [entry.stream for entry in entries].count(True) == 1
    assert {job["state"] for job in system.jobs()} == {"succeeded"}
    assert len({row["worker"] for row in system.sql("SELECT worker FROM jobs")}) == 2


@pytest.mark.usefixtures("fleet")
def test_a_warm_prefix_is_waited_for_by_nobody(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    fan_out(10, version)
    system.all_end()
    before = len(claude.ledger())
    fan_out(60, version)
    system.all_end()

    entries = claude.ledger()[before:]
    assert len(reads(entries)) == 60
    assert not any(entry.stream for entry in entries)


@pytest.mark.usefixtures("fleet")
def test_two_prompts_warm_independently(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    other = f"9.{next(versions)}"
    fan_out(30, version)
    fan_out(30, other)
    system.all_end()

    first, second = writes(billed(claude))
    # The one's first reply has not begun when the other's is asked for.
    assert abs(first.received_at - second.received_at) < 1.0
    assert len(reads(billed(claude))) == 58


@pytest.mark.usefixtures("fleet")
def test_a_prefix_below_the_minimum_is_found_out_by_one_reply(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    def entities(number: int) -> None:
        extract_entities.enqueue_many(
            [
                extract_entities.new_job(
                    {"text": f"{TEXT} {n}", "entity_types": ["place"]},
                    prompt_version=version,
                    model=HAIKU,
                )
                for n in range(number)
            ]
        )
        system.all_end()

    entities(1)
    entities(40)

    entries = billed(claude)
    assert not writes(entries)
    assert not reads(entries)
    assert [entry.stream for entry in entries].count(True) == 1
    assert claude.stats()["max_in_flight"] > 1


@pytest.mark.usefixtures("fleet")
def test_the_next_leads_when_the_first_is_refused(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    claude.faults({"match": TEXT, "status": 529})
    fan_out(60, version)
    system.all_end()

    refused, *entries = claude.ledger()
    assert refused.status == 529
    assert len(entries) == 60
    assert (len(writes(entries)), len(reads(entries))) == (1, 59)


@pytest.mark.usefixtures("fleet")
def test_a_flushed_redis_costs_a_write_at_most(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    claude.configure(latency=2.0)
    fan_out(80, version)
    system.eventually(lambda: len(billed(claude)) == 1, "no call was made")
    with system.broker() as broker:
        broker.flushdb()
    system.all_end()

    entries = billed(claude)
    assert len(entries) == 80
    assert len(writes(entries)) <= 2


@pytest.mark.usefixtures("fleet")
def test_jobs_that_wait_can_be_cancelled(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    claude.configure(latency=60.0)
    jobs = fan_out(20, version)
    system.eventually(lambda: len(billed(claude)) == 1, "no call was made")
    system.eventually(lambda: system.count("state = 'running'") == 20, system.unfinished)
    # The one that leads is left alone: once it is gone, the next makes a call.
    (leader,) = {entry.tag for entry in claude.ledger()}
    waiting = [job.id for n, job in enumerate(jobs) if f"user-{n}" != leader]
    with transaction() as connection:
        cancel_jobs(connection, waiting)
    system.eventually(
        lambda: system.count("state = 'cancelled'") == len(waiting),
        system.unfinished,
        seconds=30,  # half of a follower's patience
    )
    assert len(claude.ledger()) == 1

    for job in jobs:
        job.cancel()
    system.all_end()
    assert {job.state for job in jobs} == {"cancelled"}
