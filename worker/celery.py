"""The composition root: `celery -A worker worker` finds `app` here.

Importing it reads the settings, the prompts and the tasks, and stops with one line when any of
them is wrong. Connections are made when the worker starts.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any
from uuid import UUID

import celery
from celery import signals

from worker import logs
from worker.claude.clients import ClientStack
from worker.engine.attempt import Attempts, Ended
from worker.engine.prepare import Preparer
from worker.engine.registry import load_registry
from worker.errors import ClaudeJobsError, ConfigurationError
from worker.settings import get_settings
from worker.storage.engine import get_engine, transaction
from worker.storage.schema import require_head
from worker.transport.config import celery_config
from worker.transport.steps import RelayStep
from worker.transport.tasks import register

try:
    settings = get_settings()
    registry = load_registry()
    preparer = Preparer(registry)
except ClaudeJobsError as error:
    sys.exit(f"claude-jobs: {error}")

app = celery.Celery("claude_jobs", set_as_current=False)
app.conf.update(celery_config(settings))
app.steps["worker"].add(RelayStep)

_attempts: Attempts | None = None


def _run_attempt(job_id: UUID) -> Ended:
    if _attempts is None:
        raise RuntimeError("no worker runs in this process")
    return _attempts.run(job_id)


for _task in registry.values():
    register(app, _task, _run_attempt)


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    logs.configure(settings.log_level, as_json=settings.environment == "production")


@signals.worker_init.connect
def _check_before_starting(**_: Any) -> None:
    try:
        if settings.anthropic_api_key is None:
            raise ConfigurationError("ANTHROPIC_API_KEY is not set: a worker cannot call Claude")
        with transaction() as connection:
            require_head(connection)
    except ClaudeJobsError as error:
        sys.exit(f"claude-jobs: {error}")
    _start_attempts()


@signals.worker_process_init.connect
def _after_fork(**_: Any) -> None:
    # A forked child must not share its parent's connections.
    get_engine.cache_clear()
    _start_attempts()


def _start_attempts() -> None:
    global _attempts  # noqa: PLW0603 – one per process, built when the process is ready
    assert settings.anthropic_api_key is not None  # noqa: S101 – checked before starting
    clients = ClientStack(
        settings.anthropic_api_key.get_secret_value(), settings.anthropic_base_url
    )
    name = f"{socket.gethostname()}:{os.getpid()}"
    _attempts = Attempts(settings, preparer, clients, name)
