"""Releases on a real fleet: how soon a rollback is everywhere; any call can be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack
from tasks import summarize_text
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.claude.call import Patience, call_claude
from worker.claude.clients import ClientStack
from worker.claude.inflight import CallControl
from worker.engine import releasing
from worker.engine.registry import load_registry
from worker.engine.reproduce import reproduce
from worker.errors import InvalidInput
from worker.storage import read
from worker.storage.engine import transaction
from worker.storage.releases import Release

WORKERS = 4
TEXT = "The quick brown fox jumps over the lazy dog, and the dog never minds."
DOCUMENT = {
    "document_type": "contract",
    "focus_areas": ["terms"],
    "output_depth": "summary",
    "document": TEXT,
}


@pytest.fixture(scope="module")
def system(stack: Stack, fleet_environment: dict[str, str]) -> Iterator[System]:
    system = System(stack, fleet_environment)
    yield system
    system.close()


@pytest.fixture(scope="module")
def fleet(system: System) -> Iterator[Fleet]:
    workers = Fleet(system)
    workers.start(WORKERS)
    yield workers
    workers.stop()


@pytest.fixture(autouse=True)
def old_version_serves(fleet: Fleet, claude: SimulatedClaude) -> Iterator[None]:
    """Each test begins with 1.0 for everybody, and a Claude without limits."""
    with suppress(InvalidInput):  # it does so already
        release(v1_0=100)
    yield
    claude.configure(limits=None, latency=0.0)


def release(**shares: int) -> Release:
    points = {name[1:].replace("_", "."): percent * 100 for name, percent in shares.items()}
    library = load_registry().prompts
    with transaction() as connection:
        return releasing.release(connection, library, "analyze_document", points, by="ada")


def rollback() -> Release:
    with transaction() as connection:
        made = releasing.rollback(connection, load_registry().prompts, "analyze_document", by="ada")
    assert made is not None
    return made


def enqueue(count: int) -> list[Any]:
    """Jobs of as many users."""
    task = load_registry()["analyze_document"]
    return task.enqueue_many([task.new_job(DOCUMENT, user_id=f"u{n}") for n in range(count)])


def test_a_rollback_reaches_every_worker_within_a_second(
    system: System, fleet: Fleet, claude: SimulatedClaude, record_property: Any
) -> None:
    """Under load, with jobs queued, in the broker, waiting in slots and running."""
    claude.configure(latency=0.05)
    release(v1_1=100)
    jobs = enqueue(300)

    def began(version: str) -> int:
        """Workers that have run a job with that version since the newest release."""
        (row,) = system.sql(
            """SELECT count(DISTINCT jobs.worker) AS n FROM usage JOIN jobs ON jobs.id = job_id
               WHERE usage.prompt_version = %(version)s AND usage.variant = 'release:' || (
                   SELECT max(id) FROM prompt_releases)""",
            version=version,
        )
        return int(row["n"])

    system.eventually(lambda: began("1.1") == WORKERS, "not all workers took part")
    back = rollback()
    jobs += enqueue(150)
    system.eventually(lambda: began("1.0") == WORKERS, "not all workers went back")
    for job in jobs:
        job.wait(timeout=60)

    (last,) = system.sql(
        """SELECT extract(epoch FROM max(created_at) - %(back)s)::float AS late FROM usage
           WHERE prompt_version = '1.1'""",
        back=back.created_at,
    )
    record_property("noted", f"the last call with the old version: {last['late'] * 1000:.0f} ms")
    assert last["late"] <= 1.0
    told = system.sql(
        """SELECT DISTINCT usage.prompt_version, usage.variant, results.variant AS result,
                  usage.prompt_sha256 = results.prompt_sha256 AS same_content
           FROM usage JOIN results USING (job_id) ORDER BY 1 DESC"""
    )
    assert [tuple(row.values()) for row in told] == [
        ("1.1", f"release:{back.id - 1}", f"release:{back.id - 1}", True),
        ("1.0", f"release:{back.id}", f"release:{back.id}", True),
    ]


def test_jobs_that_wait_for_the_limit_are_saved_too(
    system: System, fleet: Fleet, claude: SimulatedClaude
) -> None:
    """They were claimed with the old version, and have not been sent yet."""
    plenty = {"requests": 10**6, "input_tokens": 10**9, "output_tokens": 10**9}
    release(v1_1=100)
    claude.configure(latency=0.05, limits={"*": plenty | {"requests": 60}}, burst_seconds=2)
    jobs = enqueue(30)
    # A call takes 50 ms: what has been running for longer waits for its turn.
    waiting = "state = 'running' AND started_at < now() - interval '400 ms'"
    system.eventually(lambda: system.count(waiting) > 0, "no job waited in its slot")

    back = rollback()
    claude.configure(limits=None)
    for job in jobs:
        job.wait(timeout=60)

    versions = system.sql(
        "SELECT prompt_version, attempt, created_at FROM usage WHERE created_at > %(since)s",
        since=back.created_at,
    )
    assert {(row["prompt_version"], row["attempt"]) for row in versions} == {("1.0", 1)}
    assert "another prompt version was released while the job waited" in fleet.logs()


def test_what_any_call_sent_can_be_repeated_to_the_byte(
    system: System, fleet: Fleet, claude: SimulatedClaude
) -> None:
    """The first call, the repair, and the result; told by the hash of the request's body."""
    claude.faults({"match": "fox", "content": "missing_field"})
    job = summarize_text.enqueue(
        text=f"{TEXT} \u0007 {{{{ not_a_variable }}}} …", max_words=50, audience="all", user_id="u"
    )
    job.wait(timeout=30)
    sent = [entry.body_sha256 for entry in claude.ledger()]
    assert len(sent) == 2

    with transaction() as connection:
        row, calls = read.job_details(connection, job.id)
        requests = [reproduce(connection, load_registry(), dict(row), dict(call)) for call in calls]
    clients = ClientStack("any", claude.url)
    for request in requests:
        call_claude(clients, request, Patience(10, 10), CallControl())
    clients.close()

    assert [entry.body_sha256 for entry in claude.ledger()[2:]] == sent
