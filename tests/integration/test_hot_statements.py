"""Nothing that runs all the time reads the history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, text

from sandbox.stack import Stack
from tests.integration.steps import (
    CALL,
    TERMS,
    cancel,
    claim,
    dispatch,
    fail,
    new_job,
    open_usage,
    requeue,
    succeed,
)
from worker.storage import fleet, leases, read, rescue
from worker.storage.claim import Hints, claim_and_open
from worker.storage.dispatch import recall
from worker.storage.engine import build_engine, transaction
from worker.storage.enqueue import adopt_job, insert_jobs
from worker.storage.statement import Statement


@pytest.fixture(scope="module")
def history(stack: Stack) -> Iterator[Engine]:
    """100,000 finished jobs with their calls, and a few hundred live ones."""
    engine = build_engine(stack.postgres.create_database("history", template="migrated"))
    with transaction(engine) as connection:
        connection.execute(
            text("""
            INSERT INTO jobs (task, input, state, finished_at, idempotency_key, run_at)
            SELECT 't', '{}', CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'succeeded' END,
                   now() - n * interval '1 minute', 'key-' || n, now() - n * interval '1 minute'
            FROM generate_series(1, 100000) AS n
            """)
        )
        connection.execute(
            text("""
            INSERT INTO usage (job_id, task, attempt, call, outcome, model, prompt, prompt_version,
                               prompt_sha256)
            SELECT id, 't', 1, 1, 'ok', 'm', 'p', '1', '0' FROM jobs
            """)
        )
        connection.execute(
            text("""
            INSERT INTO jobs (task, input, state, dispatched_at, claim_token, lease_expires_at,
                              worker)
            SELECT 't', '{}', (ARRAY['queued', 'dispatched', 'running'])[1 + n % 3],
                   now(), gen_random_uuid(), now() + interval '30 s', 'w'
            FROM generate_series(1, 600) AS n
            """)
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs, usage"))
    yield engine
    engine.dispose()
    stack.postgres.drop_database("history")


def some_job(connection: Connection, state: str) -> UUID:
    found = connection.execute(
        text("SELECT id FROM jobs WHERE state = :state LIMIT 1"), {"state": state}
    )
    return found.scalar_one()


def claim_and(end: Callable[..., bool]) -> Callable[[Connection], object]:
    def act(connection: Connection) -> None:
        taken = claim(connection, some_job(connection, "dispatched"))
        assert taken is not None
        assert end(connection, taken, open_usage(connection, taken))

    return act


def claim_at_once(connection: Connection) -> None:
    hints = Hints("t", None, None, None)
    job_id = some_job(connection, "dispatched")
    assert claim_and_open(connection, job_id, TERMS, hints, 0, CALL) is not None


HOT: dict[str, Callable[[Connection], object]] = {
    "dispatch": lambda c: dispatch(c, working_set=1000, batch=100),
    "count jobs by state": fleet.counts,
    "judge progress": lambda c: fleet.progress(c, silent=30),
    "recall": lambda c: recall(c, [some_job(c, "dispatched")]),
    "claim at once": claim_at_once,
    "claim and succeed": claim_and(succeed),
    "claim and retry": claim_and(requeue),
    "claim and fail": claim_and(fail),
    "claim and cancel": claim_and(cancel),
    "renew": lambda c: leases.renew(
        c, [t for t in [claim(c, some_job(c, "dispatched"))] if t], lease_seconds=30
    ),
    "ask for cancellations": lambda c: leases.cancelled_claims(c, "w"),
    "rescue": lambda c: rescue.rescue_expired(c, grace=0),
    "find lost messages": lambda c: rescue.requeue_lost_messages(c, idle=True, patience=30),
    "prune": lambda c: rescue.prune(c, "succeeded", older_than=90 * 86400),
    "enqueue": lambda c: insert_jobs(c, [new_job(idempotency_key=f"key-{n}") for n in range(9)]),
    "adopt": lambda c: adopt_job(c, new_job()),
    "outcome": lambda c: read.outcome(c, some_job(c, "running")),
    "show": lambda c: read.job_details(c, some_job(c, "running")),
    "list": lambda c: read.recent_jobs(c, task=None, state=None, limit=20),
    "leases that ran out": lambda c: c.execute(
        text("SELECT id FROM jobs WHERE state = 'running' AND lease_expires_at < now()")
    ),
    "messages sent long ago": lambda c: c.execute(
        text("""SELECT id FROM jobs
                WHERE state = 'dispatched' AND dispatched_at < now() - interval '1 min'""")
    ),
}


def scanned_by(engine: Engine, act: Callable[[Connection], object]) -> list[tuple[str, str]]:
    """The large tables that the statements of `act` read from end to end; rolled back."""
    scanned: list[tuple[str, str]] = []

    def explain(driver: Any, statement: str, parameters: Any) -> None:
        with driver.cursor() as aside:
            aside.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            plan = aside.fetchone()[0]
        scanned.extend((table, statement) for table in sequential_scans(plan))

    def before_core(raw: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        explain(raw.connection.driver_connection, statement, parameters)

    def execute(self: Statement, driver: Any, parameters: Any) -> Any:
        explain(driver, self.sql, parameters)
        return driver.execute(self.sql, parameters)

    with engine.connect() as connection, pytest.MonkeyPatch.context() as patch:
        event.listen(connection, "before_cursor_execute", before_core)
        patch.setattr(Statement, "execute", execute)
        act(connection)
    return scanned


@pytest.mark.parametrize("name", HOT)
def test_no_statement_of_the_engine_reads_all_finished_jobs(history: Engine, name: str) -> None:
    assert scanned_by(history, HOT[name]) == []


def test_a_statement_that_does_would_be_noticed(history: Engine) -> None:
    slow = text("UPDATE jobs SET priority = 1 WHERE task = :task")

    assert scanned_by(history, lambda c: c.execute(slow, {"task": "x"}))


def sequential_scans(plan: Any) -> list[str]:
    """The large tables that a plan reads from end to end."""
    if isinstance(plan, list):
        return [table for each in plan for table in sequential_scans(each)]
    if not isinstance(plan, dict):
        return []
    found = [plan["Relation Name"]] if plan.get("Node Type") == "Seq Scan" else []
    found += sequential_scans(list(plan.values()))
    return [table for table in found if table in ("jobs", "usage", "results")]
