"""Nothing that runs all the time reads the history."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
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
from worker.storage import (
    batch_gathering,
    batch_holding,
    batch_listing,
    batch_members,
    batches,
    cache,
    fleet,
    followers,
    lane_leaders,
    leaders,
    leases,
    read,
    rescue,
)
from worker.storage.batch_gathering import Kind
from worker.storage.claim import Hints, claim_and_open
from worker.storage.dispatch import recall
from worker.storage.engine import build_engine, transaction
from worker.storage.enqueue import adopt_job, insert_jobs
from worker.storage.grants import producer_script
from worker.storage.statement import Statement

KEEPER = UUID(int=1)
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


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
            INSERT INTO results (job_id, task, output, prompt, prompt_version, model,
                                 request_sha256)
            SELECT id, 't', '{}', 'p', '1', 'm', md5(id::text) FROM jobs WHERE state = 'succeeded'
            """)
        )
        connection.execute(
            text("""
            INSERT INTO jobs (task, input, state, waits_for)
            SELECT 't', '{}', 'queued', md5((n % 100)::text) FROM generate_series(1, 5000) AS n
            """)
        )
        connection.execute(
            text("""
            INSERT INTO jobs (task, input, state, dispatched_at, claim_token, lease_expires_at,
                              worker, lane)
            SELECT 't', '{}', (ARRAY['queued', 'dispatched', 'running'])[1 + n % 3],
                   now(), gen_random_uuid(), now() + interval '1 hour', 'w',
                   CASE WHEN n > 600 AND n % 3 <> 1 THEN 'batch' ELSE 'interactive' END
            FROM generate_series(1, 900) AS n
            """)
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs, usage, results"))
        # Plans are compared: nobody else may look at the tables anew in between.
        for table in ("jobs", "usage", "results"):
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))
    yield engine
    engine.dispose()
    stack.postgres.drop_database("history")


def some_job(connection: Connection, state: str) -> UUID:
    found = connection.execute(
        text("SELECT id FROM jobs WHERE state = :state AND lane = 'interactive' LIMIT 1"),
        {"state": state},
    )
    return found.scalar_one()


def some_batch(connection: Connection) -> UUID:
    return batches.begin(connection, "m", KEEPER, 60)


def gathered(connection: Connection) -> UUID:
    """A batch with members."""
    batch_id = some_batch(connection)
    claims = batch_gathering.take(connection, {Kind("t", ""): 60.0}, safe=90_000, limit=10)
    assert batch_gathering.join(connection, batch_id, [(each, CALL) for each in claims])
    return batch_id


def take_and_enter(connection: Connection) -> None:
    claims = batch_gathering.take(connection, {Kind("t", ""): 60.0}, safe=90_000, limit=10)
    entering = [lane_leaders.Entering(each, "some key", 600.0) for each in claims]
    assert lane_leaders.enter(connection, entering)
    batch_gathering.set_deadlines(connection, claims)
    batch_holding.hold(connection, claims[0], after=0.0, error={})


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


SOME_RESULT = """
    SELECT job_id FROM results WHERE request_sha256 IS NOT NULL ORDER BY request_sha256 LIMIT 1"""


def claim_and_enter(connection: Connection) -> None:
    taken = claim(connection, some_job(connection, "dispatched"))
    assert taken is not None
    usage_id = open_usage(connection, taken)
    standing = leaders.enter(connection, taken, "some key", 600)
    assert standing.leader is not None
    other = leaders.Leader(some_job(connection, "running"), taken.token, alive=True)
    leaders.park(connection, taken, usage_id, "some key", other)
    leaders.take_over(connection, taken, "some key", other)
    leaders.let_go(connection, taken, "some key")


def claim_and_lead(connection: Connection) -> None:
    taken = claim(connection, some_job(connection, "dispatched"))
    assert taken is not None
    usage_id = open_usage(connection, taken)
    leaders.enter(connection, taken, "some key", 600)
    assert succeed(connection, taken, usage_id, request_sha256="some key")


def claim_and_serve(connection: Connection) -> None:
    taken = claim(connection, some_job(connection, "dispatched"))
    source = connection.execute(text(SOME_RESULT)).scalar_one()
    assert taken is not None
    served = cache.serve(
        connection,
        taken,
        open_usage(connection, taken),
        "some key",
        leaders.Servable(source, "{}", "m"),
        prompt="p",
        prompt_version="1",
        prompt_sha256="0",
        variant="pinned",
    )
    assert served is not None


def waited_for(connection: Connection) -> str:
    return followers.orphaned(connection)[0]


def complete_followers(connection: Connection) -> None:
    source = connection.execute(text(SOME_RESULT)).scalar_one()
    connection.execute(
        text("UPDATE results SET prompt_sha256 = '0' WHERE job_id = :id"), {"id": source}
    )
    assert followers.complete(connection, waited_for(connection), source, window=1e9)


def promote_follower(connection: Connection) -> None:
    key = waited_for(connection)
    seen = followers.situation(connection, key)
    assert seen is not None
    assert followers.promote(connection, key, seen, attempt=0, rescues=0)


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
    "claim and enter": claim_and_enter,
    "claim and lead": claim_and_lead,
    "claim and serve": claim_and_serve,
    "find followers": followers.orphaned,
    "forget leaders": followers.forget_leaders,
    "complete followers": complete_followers,
    "fail followers": lambda c: followers.fail(c, waited_for(c), {}, most_attempts=9),
    "promote a follower": promote_follower,
    "release followers": lambda c: followers.release(c, waited_for(c)),
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
        text("""SELECT id FROM jobs
                WHERE state = 'running' AND lane = 'interactive' AND lease_expires_at < now()""")
    ),
    "look for jobs to gather": lambda c: batch_gathering.waiting(c, 10_000),
    "take, join": gathered,
    "take, enter": take_and_enter,
    "rooms": batch_holding.rooms,
    "members": lambda c: batch_members.members(c, gathered(c), [1, 2, 3]),
    "all members": lambda c: batch_members.members(c, gathered(c)),
    "whether anybody waits": lambda c: batch_members.any_wanted(c, gathered(c)),
    "release": lambda c: batch_members.release(c, gathered(c)),
    "leave the lane": lambda c: batch_gathering.leave_lane(c, safe=90_000),
    "end cancelled members": batch_members.end_cancelled,
    "due batch": lambda c: batches.take_due(c, KEEPER, 60),
    "list batches": lambda c: batch_listing.list_batches(c, since=SINCE, only_open=False, limit=50),
    "messages sent long ago": lambda c: c.execute(
        text("""SELECT id FROM jobs
                WHERE state = 'dispatched' AND dispatched_at < now() - interval '1 min'""")
    ),
}


def scanned_by(engine: Engine, act: Callable[[Connection], object]) -> list[tuple[str, str]]:
    """The large tables that the statements of `act` read from end to end."""
    planned = plans_of(engine, act)
    return [(table, sql) for sql, plan in planned for table in sequential_scans(plan)]


def plans_of(
    engine: Engine, act: Callable[[Connection], object], role: str | None = None
) -> list[tuple[str, Any]]:
    """The statements of `act`, run as `role` and rolled back, with their plans."""
    planned: list[tuple[str, Any]] = []

    def explain(driver: Any, statement: str, parameters: Any) -> None:
        if statement.startswith("SET "):
            return
        with driver.cursor() as aside:
            aside.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            planned.append((statement, aside.fetchone()[0]))

    def before_core(raw: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        explain(raw.connection.driver_connection, statement, parameters)

    def execute(self: Statement, driver: Any, parameters: Any) -> Any:
        explain(driver, self.sql, parameters)
        return driver.execute(self.sql, parameters)

    with engine.connect() as connection, pytest.MonkeyPatch.context() as patch:
        event.listen(connection, "before_cursor_execute", before_core)
        patch.setattr(Statement, "execute", execute)
        if role is not None:
            connection.execute(text(f"SET LOCAL ROLE {role}"))
        act(connection)
    return planned


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


def shape(plan: Any) -> Iterator[str]:
    """What a plan does, one line a node, without what it costs and with which values."""
    if isinstance(plan, list):
        for each in plan:
            yield from shape(each)
    elif isinstance(plan, dict):
        if "Node Type" in plan:
            told = ("Node Type", "Relation Name", "Index Name", "Filter", "Index Cond")
            yield re.sub(
                r"'[^']*'|\b\d+\b", "…", " | ".join(str(plan.get(key, "")) for key in told)
            )
        yield from shape(list(plan.values()))


def test_producers_with_rows_of_their_own_cost_the_engine_nothing(history: Engine) -> None:
    """Not as the owner, and not as a role that row-level security passes by."""

    def shapes(role: str | None) -> list[str]:
        return [
            f"{name}: {line}"
            for name, act in HOT.items()
            for _, plan in plans_of(history, act, role)
            for line in shape(plan)
        ]

    with transaction(history) as connection:
        connection.execute(text("CREATE ROLE worker_role BYPASSRLS; CREATE ROLE shop_role"))
        connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO worker_role"))
        script = producer_script(connection, "shop_role")
    before = shapes(None), shapes("worker_role")
    with history.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(script.replace("%", "%%"))

    assert (shapes(None), shapes("worker_role")) == before
