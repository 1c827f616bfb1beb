"""The schema brought up and down while jobs are under way and their workers are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.claude.faults import Fault
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.storage.engine import build_engine, transaction
from worker.storage.schema import migrate

#: Before caches, batches, budgets and the views of usage.
BEFORE = "0011"

_INSERT = """
INSERT INTO jobs (task, lane, user_id, input)
SELECT 'summarize_text', %(lane)s, %(user)s, jsonb_build_object(
    'text', %(text)s || ' The fox ' || CASE WHEN %(alike)s THEN 0 ELSE n END,
    'max_words', 50, 'audience', 'all')
FROM generate_series(1, %(number)s) AS n
RETURNING id
"""

_CLAIM = """
UPDATE jobs SET state = 'running', attempt = 1, claim_token = gen_random_uuid(), worker = 'gone',
    started_at = now(), lease_expires_at = now() + interval '2 seconds'
WHERE id = ANY(%(jobs)s)
"""


@pytest.fixture
def system(new_system: Callable[..., Any]) -> Iterator[System]:
    with new_system(
        CLAUDE_JOBS_CACHE_SECONDS="600",
        CLAUDE_JOBS_BATCH_WAIT_MINUTES="0",
        CLAUDE_JOBS_BATCH_POLL_SECONDS="0.2",
    ) as fresh:
        yield fresh
        fresh.claude.configure(batch_seconds=0.0)


def enqueue(
    system: System, number: int, lane: str = "interactive", *, text: str = "", alike: bool = False
) -> list[Any]:
    rows = system.sql(_INSERT, lane=lane, user=text, text=text, number=number, alike=alike)
    return [row["id"] for row in rows]


def bring_to(system: System, revision: str) -> None:
    system.close()
    engine = build_engine(system.environment["DATABASE_URL"])
    try:
        with transaction(engine) as connection:
            migrate(connection, revision)
    finally:
        engine.dispose()


def test_what_an_old_version_left_is_run_by_the_new_one(system: System, fleet: Fleet) -> None:
    bring_to(system, BEFORE)
    for lane in ("interactive", "batch"):
        for state in ("queued", "dispatched", "running"):
            jobs = enqueue(system, 3, lane, text=f"{state} {lane}")
            if state != "queued":
                set_ = "state = 'dispatched', dispatched_at = now()"
                system.sql(f"UPDATE jobs SET {set_} WHERE id = ANY(%(jobs)s)", jobs=jobs)
            if state == "running":
                system.sql(_CLAIM, jobs=jobs)
    system.sql("""
        INSERT INTO usage (job_id, task, user_id, attempt, call, model, prompt, prompt_version,
                           prompt_sha256)
        SELECT id, task, user_id, 1, 1, 'claude-sonnet-5-5', task, '1.0', '' FROM jobs
        WHERE state = 'running'""")

    bring_to(system, "head")
    fleet.start(1)

    system.all_end(90)
    assert system.summary() == {"succeeded": 18}
    assert sum(entry.billed for entry in system.claude.ledger()) == 18
    lost = system.sql("SELECT count(*) AS calls FROM usage WHERE outcome = 'lost'")
    assert lost == [{"calls": 6}]
    assert system.sql("SELECT 1 FROM usage WHERE outcome = 'in_flight'") == []


def test_there_and_back_with_waiting_jobs_batches_and_budgets(system: System, fleet: Fleet) -> None:
    """What was in batches is asked again, and paid for again: the old version knows none."""
    system.claude.configure(batch_seconds=600.0)
    fleet.start(1)
    system.sql("""INSERT INTO budgets (scope, period, amount_usd, hard, changed_by)
                  VALUES ('all', 'day', 100, true, 'test')""")
    served = enqueue(system, 2, text="served", alike=True)
    system.all_end()
    batched = enqueue(system, 10, "batch", text="batched")
    system.claude.faults(Fault(delay=600.0))
    shared = enqueue(system, 10, text="shared", alike=True)
    system.eventually(
        lambda: (
            bool(system.sql("SELECT 1 FROM batches WHERE state = 'submitted' AND requests = 10"))
            and system.count("waits_for IS NOT NULL") == 9
        ),
        system.unfinished,
    )
    fleet.kill(fleet.members[0])
    seen = system.sql("SELECT sum(cost_usd) AS usd FROM usage")

    bring_to(system, BEFORE)

    assert system.count("state = 'queued'") == 19
    assert system.count("state = 'running'") == 1
    assert system.sql("SELECT sum(cost_usd) AS usd FROM usage") == seen
    bring_to(system, "head")
    system.claude.configure(batch_seconds=0.0)
    fleet.start(1)
    system.all_end(90)
    assert system.count("state = 'succeeded'") == len([*served, *batched, *shared])
    assert system.sql("SELECT 1 FROM usage WHERE outcome = 'in_flight'") == []
