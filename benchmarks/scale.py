"""What a backlog costs: the relay's look, the claim and the enqueueing, with more and more jobs.

One database a size, on the same server, so that they are measured in turn. Time by the clock is
rounded up to scheduler ticks wherever others want the cores, too; so CPU time, of this process and
of the Postgres process that serves it, is what is judged, and the clock is shown beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import Connection, Engine, text

from benchmarks.contenders import KIND, SAMPLES, inputs
from benchmarks.measure import BenchmarkError, cpu_seconds, median, ratios, wait_for
from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack
from worker.engine.dispatch import Dispatcher
from worker.engine.registry import load_registry
from worker.settings import get_settings
from worker.storage.claim import FirstCall, Terms, claim_job, open_call
from worker.storage.dispatch import recall
from worker.storage.engine import build_engine, transaction
from worker.storage.schema import migrate

BATCH = 100
#: Claims and enqueueings of a round.
EACH = 10
WARM_UP = 3
DRAINED = 1000
CONCURRENCY = 50
STEPS = ("dispatch", "claim", "enqueue")

# Of three priorities and a thousand users. As in life, what came first is due first: the jobs that
# go out next lie side by side, however many there are.
_FILL = text("""
INSERT INTO jobs (id, task, input, state, priority, user_id, max_attempts, run_at)
SELECT gen_random_uuid(), :task, cast(:input AS jsonb), 'queued', (ARRAY[10, 100, 200])[1 + n % 3],
       'user-' || n % 1000, 3, now() - make_interval(secs => 3600.0 * (:jobs - n) / :jobs)
FROM generate_series(1, :jobs) AS n
""")


def measure(
    stack: Stack,
    claude: SimulatedClaude,
    *,
    sizes: tuple[int, ...],
    rounds: int,
    drains: bool,
) -> dict[str, Any]:
    """Fill a database for each size, then measure them round by round."""
    claude.configure(latency=0.0)
    urls = {size: stack.postgres.create_database(f"scale_{size}") for size in sizes}
    engines = {size: build_engine(url) for size, url in urls.items()}
    try:
        filled = {size: _fill(engine, size) for size, engine in engines.items()}
        clock: dict[str, dict[int, list[float]]] = {step: {s: [] for s in sizes} for step in STEPS}
        cpu: dict[str, dict[int, list[float]]] = {step: {s: [] for s in sizes} for step in STEPS}
        for number in range(rounds + WARM_UP):
            # Every size has every place in the order.
            for size in (*sizes[number % len(sizes) :], *sizes[: number % len(sizes)]):
                for step, took in _round(engines[size]).items():
                    if number >= WARM_UP:
                        clock[step][size].append(took.clock_ms)
                        cpu[step][size].append(took.cpu_ms)
        drained = {}
        for size in sizes if drains else ():
            drained[size] = _drain(stack, urls[size], engines[size], size)
    finally:
        for size, engine in engines.items():
            engine.dispose()
            stack.postgres.drop_database(f"scale_{size}")
    return {
        "sizes": list(sizes),
        "rounds": rounds,
        "filled_seconds": filled,
        "median_ms": _medians(cpu),
        "ratios": _ratios(cpu, sizes[0]),
        "clock_median_ms": _medians(clock),
        "clock_ratios": _ratios(clock, sizes[0]),
        "drained": drained,
        "raw_ms": {"cpu": cpu, "clock": clock},
    }


def _medians(steps: dict[str, dict[int, list[float]]]) -> dict[str, dict[int, float]]:
    return {step: {s: median(v) for s, v in by.items()} for step, by in steps.items()}


def _ratios(steps: dict[str, dict[int, list[float]]], first: int) -> dict[str, dict[int, float]]:
    return {
        step: {size: median(ratios(values, by[first])) for size, values in by.items()}
        for step, by in steps.items()
    }


def _fill(engine: Engine, jobs: int) -> float:
    started = time.monotonic()
    with transaction(engine) as connection:
        migrate(connection)
        load_into(connection, jobs)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))
        connection.execute(text("CHECKPOINT"))
    return time.monotonic() - started


def load_into(connection: Connection, jobs: int) -> None:
    """Queue jobs by SQL alone."""
    document = load_registry()[KIND].parse_input(SAMPLES[0]).model_dump_json()
    connection.execute(_FILL, {"task": KIND, "input": document, "jobs": jobs})


def _round(engine: Engine) -> dict[str, Cost]:
    """A look that dispatches a batch, a claim, an enqueueing; the latter two are means of a few."""
    # One thread, so the pool has one connection, and this is its server process.
    with transaction(engine) as connection:
        backend = int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    registry = load_registry()
    task, models = registry[KIND], registry.models()
    dispatcher = Dispatcher(get_settings(), models)
    batch = []

    def look() -> None:
        with transaction(engine) as connection:
            batch.extend(dispatcher.dispatch(connection, BATCH).jobs)

    took = {"dispatch": _cost(look, backend)}
    if len(batch) != BATCH:
        raise BenchmarkError(f"scale: {len(batch)} jobs dispatched instead of {BATCH}")
    claimed = iter(batch)

    terms = Terms("scale", lease_seconds=30, deadline_seconds=60)
    call = FirstCall(
        call_model=models[KIND], prompt=task.prompt, call_version="1.0", prompt_sha256="0" * 64
    )

    def claim() -> None:
        with transaction(engine) as connection:
            claimed_job = claim_job(connection, next(claimed).id, terms)
            if claimed_job is None:
                raise BenchmarkError("scale: a job that was dispatched could not be claimed")
            open_call(connection, claimed_job, call)

    took["claim"] = _cost(claim, backend, EACH)
    given = iter(inputs(EACH))

    def enqueue() -> None:
        with transaction(engine) as connection:
            task.enqueue(session=connection, **next(given))

    took["enqueue"] = _cost(enqueue, backend, EACH)
    with transaction(engine) as connection:
        recall(connection, [job.id for job in batch])
    return took


def _drain(stack: Stack, url: str, engine: Engine, size: int) -> dict[str, float]:
    """Jobs a second and CPU a job of a worker that begins with such a backlog."""
    with transaction(engine) as connection:
        connection.execute(text("DELETE FROM usage"))
        connection.execute(text("DELETE FROM jobs WHERE state <> 'queued'"))
        left = connection.execute(text("SELECT count(*) FROM jobs")).scalar_one()
        load_into(connection, max(0, size - left))
        connection.execute(
            text("INSERT INTO pauses (scope, name, reason, paused_by) VALUES ('all', '', '', '')")
        )
    worker = stack.start_worker(
        f"scale-{size}", DATABASE_URL=url, CLAUDE_JOBS_CONCURRENCY=str(CONCURRENCY)
    )
    cpu, started = cpu_seconds(worker.pid), time.monotonic()
    with transaction(engine) as connection:
        connection.execute(text("DELETE FROM pauses"))
        connection.execute(text("NOTIFY claude_jobs_due"))
    wait_for(
        lambda: _results(engine) >= min(DRAINED, size),
        seconds=120,
        what=f"{DRAINED} of {size} jobs",
        every=0.02,
    )
    seconds, done = time.monotonic() - started, _results(engine)
    cpu = cpu_seconds(worker.pid) - cpu
    worker.kill()
    # What was dispatched and not begun is of no interest to the next worker.
    with redis.Redis.from_url(stack.environment["REDIS_URL"]) as client:
        client.flushdb()
    return {"jobs_per_second": done / seconds, "worker_ms": cpu * 1000 / done}


def _results(engine: Engine) -> int:
    with transaction(engine) as connection:
        return int(connection.execute(text("SELECT count(*) FROM results")).scalar_one())


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one of something."""

    clock_ms: float
    cpu_ms: float


def _cost(action: Callable[[], object], backend: int, times: int = 1) -> Cost:
    cpu, clock = _cpu_seconds(backend), time.perf_counter()
    for _ in range(times):
        action()
    clock = time.perf_counter() - clock
    return Cost(clock * 1000 / times, (_cpu_seconds(backend) - cpu) * 1000 / times)


def _cpu_seconds(backend: int) -> float:
    """Of this process and of a server process; to the nanosecond where Linux says it so."""
    try:
        served = int(Path(f"/proc/{backend}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        served = cpu_seconds(backend)
    return time.process_time() + served
