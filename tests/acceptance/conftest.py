"""A fleet of one: a real Celery worker in a subprocess, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.service import Service
from sandbox.stack import Stack
from worker.settings import get_settings
from worker.storage.engine import get_engine


@pytest.fixture(scope="module")
def fleet_environment(stack: Stack, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """A fresh system for the whole module, with this process as a producer of it."""
    name = f"fleet_{request.module.__name__.rsplit('.', 1)[-1]}"
    number = 1001 + sum(map(ord, name)) % 20
    environment = stack.environment | {
        "DATABASE_URL": stack.postgres.create_database(name, template="migrated"),
        "REDIS_URL": stack.valkey.url.removesuffix("/0") + f"/{number}",
        "CLAUDE_JOBS_CONCURRENCY": "20",
        "CLAUDE_JOBS_POLL_SECONDS": "0.2",
        "CLAUDE_JOBS_MAX_INPUT_BYTES": "200000",
    }
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment.items():
            patch.setenv(variable, value)
        get_settings.cache_clear()
        get_engine.cache_clear()
        yield environment
        get_engine().dispose()
    get_settings.cache_clear()
    get_engine.cache_clear()
    stack.postgres.drop_database(name)


@pytest.fixture(scope="module")
def worker(stack: Stack, fleet_environment: dict[str, str]) -> Iterator[Service]:
    """A running worker of the module's system."""
    extra = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    service = stack.start_worker(f"acceptance-{fleet_environment['REDIS_URL'][-4:]}", **extra)
    yield service
    service.stop()


@pytest.fixture(autouse=True)
def fresh_claude(claude: SimulatedClaude) -> SimulatedClaude:
    """No faults and an empty ledger before each test."""
    return claude
