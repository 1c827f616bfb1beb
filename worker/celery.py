"""The composition root: `celery -A worker worker` finds `app` here.

Importing it reads the settings, the prompts and the tasks, and stops with one line when any of
them is wrong. Connections are made when the worker starts.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from functools import lru_cache
from typing import Any
from uuid import UUID

import celery
import structlog
from celery import signals

from worker import logs
from worker.batches.loop import BatchLoop
from worker.claude.clients import ClientStack
from worker.claude.inflight import Watchdog
from worker.claude.pricing import price_book
from worker.engine.announcer import Announcer
from worker.engine.attempt import Attempts
from worker.engine.calling import Caller
from worker.engine.catalog import Catalog, register
from worker.engine.choose import Chooser
from worker.engine.followers import FollowerLoop
from worker.engine.gate import Gate, capacity_of
from worker.engine.holdings import Holdings
from worker.engine.job_webhooks import check_webhooks
from worker.engine.known import register_tasks
from worker.engine.prepare import Preparer
from worker.engine.registry import AnyTask, load_registry
from worker.engine.relay import Relay
from worker.engine.releasewatch import ReleaseWatcher
from worker.engine.serving import ServedModels, Serving, ServingLoop
from worker.engine.settling import Ended
from worker.engine.sharing import Sharing
from worker.engine.spending import Spending
from worker.engine.spendingloop import SpendingLoop
from worker.engine.warmgate import WarmGate
from worker.engine.warmth import Warmth
from worker.errors import ClaudeJobsError, ConfigurationError
from worker.limits.limiter import Limiter
from worker.settings import get_settings
from worker.storage.claim import Hints
from worker.storage.engine import transaction
from worker.storage.grants import is_held_to_policies
from worker.storage.models import TERMINAL_STATES
from worker.storage.releases import register_schema
from worker.storage.schema import require_head
from worker.streams.writer import StreamWriter
from worker.transport import redis_patch
from worker.transport.config import celery_config, check_visibility
from worker.transport.publish import publisher
from worker.transport.steps import Engine, EngineStep
from worker.transport.tasks import register as register_task

log = structlog.get_logger(__name__)

try:
    settings = get_settings()
    registry = load_registry()
    preparer = Preparer(registry)
    catalog = Catalog(registry.prompts)
except ClaudeJobsError as error:
    sys.exit(f"claude-jobs: {error}")

app = celery.Celery("claude_jobs", set_as_current=False)
app.conf.update(celery_config(settings))
app.steps["worker"].add(EngineStep)
redis_patch.apply()

worker_name = f"{socket.gethostname()}:{os.getpid()}"
serving = Serving()
models = ServedModels(registry, serving, catalog)
serving_loop = ServingLoop(settings, serving, models)
holdings = Holdings()
spending = Spending()
announcer = Announcer()
followers = FollowerLoop(settings, registry)
watchdog = Watchdog()
_attempts: Attempts | None = None
_batches: BatchLoop | None = None


@lru_cache(maxsize=1)
def _limiter() -> Limiter:
    return Limiter(settings, processes=lambda: holdings.processes)


def _run_attempt(task: AnyTask, job_id: UUID, hints: Hints | None) -> Ended:
    if _attempts is None:
        raise RuntimeError("no worker runs in this process")
    ended = _attempts.run(task, job_id, hints)
    if ended.state in TERMINAL_STATES:
        announcer.ended(job_id)
    return ended


for _task in registry.values():
    register_task(app, _task, _run_attempt, holdings.ending)


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    logs.configure(settings.log_level, as_json=settings.environment == "production")


@signals.worker_init.connect
def _prepare_worker(**_: Any) -> None:
    global _attempts, _batches  # noqa: PLW0603 – one per process, built when a worker starts in it
    try:
        if settings.anthropic_api_key is None:
            raise ConfigurationError("ANTHROPIC_API_KEY is not set: a worker cannot call Claude")
        check_visibility(settings, registry)
        check_webhooks(settings, registry)
        price_book()
        with transaction() as connection:
            require_head(connection)
            register(connection, registry.prompts)
            register_tasks(connection, registry)
            for schema in preparer.schemas.values():
                register_schema(connection, schema.sha256, schema.text)
            serving_loop.catch_up(connection)
            spending.keep_up(connection)
            if is_held_to_policies(connection):
                log.warning(
                    "row-level security applies to this role, dispatching is slower: connect as "
                    "the owner of the tables, or ALTER ROLE … BYPASSRLS"
                )
    except ClaudeJobsError as error:
        sys.exit(f"claude-jobs: {error}")
    api_key = settings.anthropic_api_key.get_secret_value()
    clients = ClientStack(api_key, str(settings.anthropic_base_url))
    chooser, gate = Chooser(registry, serving, catalog), Gate(_limiter())
    sharing = Sharing(settings, preparer.schemas, holdings, followers.attend, followers.release)
    warm_gate = WarmGate(Warmth(settings.redis_url), settings.prompt_cache_wait_seconds)
    stall = settings.stall_seconds
    _attempts = Attempts(
        settings,
        chooser,
        preparer,
        Caller(clients, chooser, preparer.schemas, gate, warm_gate, stall),
        holdings,
        watchdog,
        sharing,
        worker_name,
        spending,
        _writer(),
    )
    _batches = BatchLoop(
        settings,
        registry,
        models,
        catalog,
        chooser,
        preparer,
        clients,
        watchdog,
        _attempts,
        holdings,
        worker_name,
        announcer.ended,
        spending,
        gate,
        sharing,
    )


def _writer() -> StreamWriter | None:
    """What publishes the streams of jobs that ask for one; None if nothing may be published."""
    if not settings.stream_max_bytes:
        return None
    writer = StreamWriter(
        settings.redis_url,
        ttl_seconds=settings.stream_ttl_seconds,
        max_bytes=settings.stream_max_bytes,
    )
    signals.worker_shutdown.connect(lambda **_: writer.close(), weak=False)
    return writer


def _build_engine(worker: Any) -> Engine:
    if not worker.pool_cls.__module__.endswith(".thread"):
        sys.exit("claude-jobs: leases and deadlines need Celery's threads pool: drop --pool")
    _spare_the_collector()
    watchdog.start()
    assert _batches is not None  # noqa: S101 – built when the worker was prepared
    relay = Relay(settings, publisher(app), models, capacity_of(_limiter()))
    return Engine(
        settings,
        holdings,
        relay,
        serving_loop,
        ReleaseWatcher(settings, registry.prompts),
        announcer,
        followers,
        SpendingLoop(spending, models, lambda: holdings.processes),
        _batches,
        worker=worker_name,
        slots=worker.concurrency,
        output_bounds={name: task.output_bound for name, task in registry.items()},
    )


def _spare_the_collector() -> None:
    """What is loaded by now stays to the end: no garbage collection needs to look at it again.

    That is a quarter of a million objects, most of them the SDK's. Going through them took 6 % of
    a worker's CPU.
    """
    gc.collect()
    gc.freeze()


EngineStep.build = staticmethod(_build_engine)
