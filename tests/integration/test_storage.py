"""The statements that a job's life consists of, on a real Postgres."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import IntegrityError

from sandbox.stack import Stack
from worker.engine.checks import storable
from worker.errors import IdempotencyConflict
from worker.storage import fleet, leases, read, rescue, settle
from worker.storage.claim import Claim, claim_job, open_call
from worker.storage.dispatch import dispatch_due, recall
from worker.storage.engine import build_engine, transaction
from worker.storage.enqueue import NewJob, adopt_job, insert_jobs, new_job_id
from worker.storage.settle import CallRecord

ERROR = {"type": "test", "message": "…", "attempt": 1}


@pytest.fixture
def engine(environment: dict[str, str]) -> Iterator[Engine]:
    """A fresh database, with connections for 60 threads."""
    engine = build_engine(environment["DATABASE_URL"], pool_size=60)
    yield engine
    engine.dispose()


def new_job(**options: Any) -> NewJob:
    return NewJob(**{"task": "t", "input": "{}", "id": new_job_id()} | options)


def enqueue(engine: Engine, *jobs: NewJob) -> list[UUID]:
    with transaction(engine) as connection:
        return insert_jobs(connection, jobs or [new_job()])


def claim(connection: Connection, job_id: UUID) -> Claim | None:
    return claim_job(connection, job_id, worker="w", lease_seconds=30, deadline_seconds=600)


def open_usage(connection: Connection, claimed: Claim) -> int:
    return open_call(
        connection,
        claimed,
        call=1,
        model="m",
        prompt="p",
        prompt_version="1",
        prompt_sha256="0",
    )


@pytest.fixture
def claimed(engine: Engine) -> tuple[Claim, int]:
    """A job that a worker is calling Claude for, and its usage row."""
    (job_id,) = enqueue(engine)
    with transaction(engine) as connection:
        dispatch_due(connection, working_set=10, batch=10)
        taken = claim(connection, job_id)
        assert taken is not None
        return taken, open_usage(connection, taken)


def everything(engine: Engine) -> list[Any]:
    """Every row there is."""
    with transaction(engine) as connection:
        tables = ("jobs", "results", "usage")
        return [list(connection.execute(text(f"SELECT * FROM {name}"))) for name in tables]


def in_threads(count: int, act: Callable[[], Any]) -> list[Any]:
    """`act()` in so many threads that all start at once."""
    barrier = Barrier(count)

    def together() -> Any:
        barrier.wait(30)
        return act()

    with ThreadPoolExecutor(count) as pool:
        return [future.result(60) for future in [pool.submit(together) for _ in range(count)]]


# What Postgres itself refuses, whoever writes.


@pytest.mark.parametrize(
    "columns",
    [
        "state = 'lost'",
        "lane = 'fast'",
        "priority = -1",
        "attempt = -1",
        "rescues = -1",
        "max_attempts = 0",
        "state = 'running'",
        "state = 'running', claim_token = gen_random_uuid()",
        "state = 'succeeded'",
        "finished_at = now()",
        "input = NULL",
        "task = NULL",
    ],
)
def test_an_impossible_job_is_refused(engine: Engine, columns: str) -> None:
    enqueue(engine)
    with pytest.raises(IntegrityError), transaction(engine) as connection:
        connection.execute(text(f"UPDATE jobs SET {columns}"))


@pytest.mark.parametrize(
    "columns",
    [
        "outcome = 'fine'",
        "input_tokens = -1",
        "thinking_tokens = -1",
        "cost_usd = -0.1",
        "call = -1",
    ],
)
def test_an_impossible_call_is_refused(
    engine: Engine, claimed: tuple[Claim, int], columns: str
) -> None:
    with pytest.raises(IntegrityError), transaction(engine) as connection:
        connection.execute(text(f"UPDATE usage SET {columns}"))


def test_usage_outlives_its_job_and_the_result_does_not(
    engine: Engine, claimed: tuple[Claim, int]
) -> None:
    with transaction(engine) as connection:
        assert succeed(connection, *claimed)
        connection.execute(text("DELETE FROM jobs"))

    _, results, usage = everything(engine)
    assert results == []
    assert [row.job_id for row in usage] == [None]


# Claim and settle.


def test_of_fifty_claims_at_once_one_wins(engine: Engine) -> None:
    (job_id,) = enqueue(engine)
    with transaction(engine) as connection:
        dispatch_due(connection, working_set=10, batch=10)

    def act() -> Claim | None:
        with transaction(engine) as connection:
            return claim(connection, job_id)

    winners = [won for won in in_threads(50, act) if won is not None]

    assert len(winners) == 1
    assert winners[0].attempt == 1
    with transaction(engine) as connection:
        job, _ = read.job_details(connection, job_id)
    assert (job["attempt"], job["claim_token"]) == (1, winners[0].token)


def test_only_a_dispatched_job_that_nobody_cancels_can_be_claimed(engine: Engine) -> None:
    queued, cancelled = enqueue(engine, new_job(), new_job())
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'dispatched', cancel_requested = true WHERE id = :id"),
            {"id": cancelled},
        )
        for job_id in (queued, cancelled, uuid4()):
            assert claim(connection, job_id) is None


def succeed(connection: Connection, taken: Claim, usage_id: int) -> bool:
    return settle.succeed(
        connection,
        taken,
        usage_id,
        CallRecord(outcome="ok", input_tokens=5, complete=True),
        output='{"a": 1}',
        prompt="p",
        prompt_version="1",
        model="m",
    )


def requeue(connection: Connection, taken: Claim, usage_id: int) -> bool:
    record = CallRecord(outcome="overloaded")
    return settle.requeue(connection, taken, usage_id, record, after=5, error=ERROR)


def fail(connection: Connection, taken: Claim, usage_id: int) -> bool:
    record = CallRecord(outcome="refused")
    return settle.fail(connection, taken, usage_id, record, error=ERROR)


def cancel(connection: Connection, taken: Claim, usage_id: int) -> bool:
    return settle.cancel(connection, taken, usage_id, CallRecord(outcome="interrupted"))


SETTLED = {
    succeed: ("succeeded", "ok"),
    requeue: ("queued", "overloaded"),
    fail: ("failed", "refused"),
    cancel: ("cancelled", "interrupted"),
}


@pytest.mark.parametrize("end", SETTLED)
def test_the_holder_of_a_claim_settles_job_and_usage_together(
    engine: Engine, claimed: tuple[Claim, int], end: Callable[..., bool]
) -> None:
    with transaction(engine) as connection:
        assert end(connection, *claimed)

    (job,), _, (usage,) = everything(engine)
    assert (job.state, usage.outcome) == SETTLED[end]
    assert (job.claim_token, job.lease_expires_at) == (None, None)
    assert usage.finished_at is not None


@pytest.mark.parametrize("end", SETTLED)
def test_a_stale_token_changes_nothing_at_all(
    engine: Engine, claimed: tuple[Claim, int], end: Callable[..., bool]
) -> None:
    taken, usage_id = claimed
    with transaction(engine) as connection:  # it was thought dead: somebody else has the job
        assert rescue.rescue_expired(connection, grace=0) == []
        connection.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
        (rescued,) = rescue.rescue_expired(connection, grace=0)
        assert rescued.state == "queued"
    with transaction(engine) as connection:
        dispatch_due(connection, working_set=10, batch=10)
        second = claim(connection, taken.id)
        assert second is not None
        open_usage(connection, second)
    before = everything(engine)

    with transaction(engine) as connection:
        assert not end(connection, taken, usage_id)

    assert everything(engine) == before
    assert [row.outcome for row in before[2]] == ["lost", "in_flight"]


@pytest.mark.parametrize("first", SETTLED)
@pytest.mark.parametrize("second", SETTLED)
def test_an_attempt_ends_once(
    engine: Engine,
    claimed: tuple[Claim, int],
    first: Callable[..., bool],
    second: Callable[..., bool],
) -> None:
    with transaction(engine) as connection:
        assert first(connection, *claimed)
    before = everything(engine)

    with transaction(engine) as connection:
        assert not second(connection, *claimed)

    assert everything(engine) == before


def test_a_lost_lease_is_not_renewed(engine: Engine, claimed: tuple[Claim, int]) -> None:
    taken, usage_id = claimed
    with transaction(engine) as connection:
        assert leases.renew(connection, [taken], lease_seconds=30).lost == set()
        requeue(connection, taken, usage_id)
        assert leases.renew(connection, [taken], lease_seconds=30).lost == {taken.token}


# Dispatching.


def test_jobs_are_dispatched_by_priority_and_then_by_age(engine: Engine) -> None:
    for priority in (100, 0, 32767, 5, 100, 5, 0, 100):
        enqueue(engine, *(new_job(priority=priority) for _ in range(5)))
    with transaction(engine) as connection:
        expected = connection.execute(
            text("SELECT array_agg((priority, run_at) ORDER BY priority, run_at) FROM jobs")
        ).scalar_one()

    sent: list[UUID] = []
    while len(sent) < 40:
        with transaction(engine) as connection:
            sent += [job.id for job in dispatch_due(connection, working_set=40, batch=7).jobs]

    with transaction(engine) as connection:
        rows = {
            row.id: row.urgency
            for row in connection.execute(
                text("SELECT id, (priority, run_at) AS urgency FROM jobs")
            )
        }
    assert [rows[job_id] for job_id in sent] == expected


def test_a_job_waits_for_its_time(engine: Engine) -> None:
    later, now = new_job(), new_job()
    enqueue(engine, later, now)
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET run_at = now() + interval '1 h' WHERE id = :id"), {"id": later.id}
        )
        batch = dispatch_due(connection, working_set=10, batch=10)

    assert [job.id for job in batch.jobs] == [now.id]
    assert not batch.full


def test_what_could_not_be_published_comes_back(engine: Engine) -> None:
    first, second = enqueue(engine, new_job(), new_job())
    with transaction(engine) as connection:
        dispatch_due(connection, working_set=10, batch=10)
        assert claim(connection, second) is not None

        assert recall(connection, [first, second]) == 1

        assert read.outcome(connection, first)["state"] == "queued"
        assert read.outcome(connection, second)["state"] == "running"


def test_four_dispatchers_never_exceed_the_working_set_nor_send_a_job_twice(
    engine: Engine,
) -> None:
    bound, jobs = 250, 5_000
    enqueue(engine, *(new_job() for _ in range(jobs)))
    done = Event()
    finish = text("UPDATE jobs SET state = 'succeeded', finished_at = now() WHERE id = ANY(:ids)")
    waiting = text("SELECT count(*) FROM jobs WHERE state = 'dispatched'")
    left = text("SELECT count(*) FROM jobs WHERE state = 'queued'")

    def dispatch() -> list[UUID]:
        sent: list[UUID] = []
        while not done.is_set():
            with transaction(engine) as connection:
                batch = dispatch_due(connection, working_set=bound, batch=100)
            ids = [job.id for job in batch.jobs]
            with transaction(engine) as connection:
                # Workers take some now and the rest when there is no more room.
                connection.execute(finish, {"ids": sent if batch.full else ids[:30]})
                if connection.execute(left).scalar_one() == 0:
                    done.set()
            sent += ids
        return sent

    def watch() -> list[int]:
        seen = []
        while not done.is_set():
            with transaction(engine) as connection:
                seen.append(connection.execute(waiting).scalar_one())
        return seen

    with ThreadPoolExecutor(5) as pool:
        watcher = pool.submit(watch)
        dispatchers = [pool.submit(dispatch) for _ in range(4)]
        sent = [job_id for future in dispatchers for job_id in future.result(120)]
        seen = watcher.result(10)

    assert len(sent) == len(set(sent)) == jobs
    assert max(seen) <= bound


# Idempotency, and messages that bring their own input.


def test_fifty_producers_with_one_key_make_one_job(engine: Engine) -> None:
    ids = in_threads(50, lambda: enqueue(engine, new_job(idempotency_key="order-1"))[0])

    assert len(set(ids)) == 1
    assert len(everything(engine)[0]) == 1


def test_batches_with_the_same_keys_in_any_order_do_not_deadlock(engine: Engine) -> None:
    keys = [f"key-{n}" for n in range(200)]
    orders = iter([keys, keys[::-1]] * 4)

    ids = in_threads(
        8, lambda: enqueue(engine, *(new_job(idempotency_key=key) for key in next(orders)))
    )

    assert len({job_id for batch in ids for job_id in batch}) == 200


def test_a_batch_with_old_and_new_keys_keeps_its_order(engine: Engine) -> None:
    (old,) = enqueue(engine, new_job(idempotency_key="b"))
    jobs = [new_job(idempotency_key=key) for key in ("a", "b", "c", "a", None)]

    ids = enqueue(engine, *jobs)

    assert ids == [jobs[0].id, old, jobs[2].id, jobs[0].id, jobs[4].id]


def test_a_key_belongs_to_one_task(engine: Engine) -> None:
    one, two = (new_job(task=task, idempotency_key="k") for task in ("a", "b"))

    assert enqueue(engine, one, two) == [one.id, two.id]


def test_a_key_with_another_input_is_refused_and_nothing_of_the_batch_stays(
    engine: Engine,
) -> None:
    enqueue(engine, new_job(idempotency_key="k", input='{"a": 1, "b": 2}'))
    enqueue(engine, new_job(idempotency_key="k", input='{"b":2,"a":1}'))  # the same as JSON

    with pytest.raises(IdempotencyConflict, match="'k' of t belongs to job"):
        enqueue(engine, new_job(), new_job(idempotency_key="k", input='{"a": 2}'))

    assert len(everything(engine)[0]) == 1


def test_a_message_that_comes_twice_is_one_job(engine: Engine) -> None:
    message = new_job()

    def act() -> None:
        with transaction(engine) as connection:
            adopt_job(connection, message)

    in_threads(20, act)

    assert [row.id for row in everything(engine)[0]] == [message.id]


# Any text that is storable is stored, and comes back the same.

TEXTS = st.text(st.characters(), max_size=30)
DOCUMENTS = st.dictionaries(
    TEXTS,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=10,
    ),
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(document=DOCUMENTS)
def test_whatever_is_made_storable_comes_back_as_it_was(engine: Engine, document: Any) -> None:
    made = json.loads(json.dumps(storable(document)), parse_int=float)  # JSON has one number type
    job = new_job(input=json.dumps(storable(document)))
    with engine.connect() as connection:  # rolled back
        insert_jobs(connection, [job])
        stored = connection.execute(
            text("SELECT input::text FROM jobs WHERE id = :id"), {"id": job.id}
        ).scalar_one()
    assert json.loads(stored, parse_int=float) == made


# Nothing that runs all the time reads the history.


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


HOT: dict[str, Callable[[Connection], object]] = {
    "dispatch": lambda c: dispatch_due(c, working_set=1000, batch=100),
    "count jobs by state": fleet.counts,
    "judge progress": lambda c: fleet.progress(c, silent=30),
    "recall": lambda c: recall(c, [some_job(c, "dispatched")]),
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

    def explain(raw: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        with raw.connection.cursor() as aside:
            aside.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            plan = aside.fetchone()[0]
        scanned.extend((table, statement) for table in sequential_scans(plan))

    with engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", explain)
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
