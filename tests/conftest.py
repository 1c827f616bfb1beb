"""Real servers for every test: one Postgres, one Valkey and one simulated Claude a test process.

A test's database is a copy of a migrated template; its broker is a numbered database of Valkey.
Nothing here can reach the real Claude: the only base URL in the environment is loopback.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.process import wait_until
from sandbox.stack import Stack, servers
from tests.preloaded import Parent, Worker
from worker.settings import get_settings
from worker.storage.engine import get_engine

#: Where requests go if a test forgets to say: a port that nobody listens on.
NOWHERE = "http://127.0.0.1:9"

_numbers = count(1)

#: Examples of each property; the long version (CHAOS_LONG=1) tries twenty times as many.
_EXAMPLES = {"0": 30, "1": 600}

hypothesis.settings.register_profile(
    "claude-jobs", max_examples=_EXAMPLES[os.environ.get("CHAOS_LONG", "0")], deadline=None
)
hypothesis.settings.load_profile("claude-jobs")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests note with `record_property("noted", …)`: worth reading, yet no failure."""
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == "noted":
                terminalreporter.write_line(f"NOTED {line}")


@pytest.fixture(scope="session", autouse=True)
def preloaded() -> Iterator[None]:
    """End what workers are forked from after everything else."""
    yield
    Parent.close()


@pytest.fixture(scope="session", autouse=True)
def no_real_claude() -> None:
    """A test that would reach the real API fails instead."""
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "CLAUDE_JOBS_", "FLOWER_")) or name in (
            "DATABASE_URL",
            "REDIS_URL",
            "CELERY_BROKER_URL",
        ):
            del os.environ[name]
    os.environ["ANTHROPIC_BASE_URL"] = NOWHERE


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The servers of this test process."""
    folder = Path(tempfile.mkdtemp(prefix="claude-jobs-"))
    folder.chmod(0o711)  # as root, Postgres runs as an account that must get in
    try:
        with servers(folder, durable=False, claude=SimulatedClaude(seed=7)) as started:
            # Most tests that enqueue the same input again mean to have it run again.
            started.environment["CLAUDE_JOBS_CACHE_SECONDS"] = "0"
            # Nobody may be connected to a template while it is copied.
            started.postgres.create_database("migrated", template="claude_jobs")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("sandbox.stack.Service", Worker)
                yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def maintenance(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """Creates and drops databases; one connection for all tests, as each costs more than a drop."""
    with psycopg.connect(stack.postgres.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def environment(stack: Stack, maintenance: psycopg.Connection[Any]) -> Iterator[dict[str, str]]:
    """The variables of a fresh system: its own database, its own broker, the shared Claude."""
    number = next(_numbers)
    name = f"test_{number}"
    maintenance.execute(f"CREATE DATABASE {name} TEMPLATE migrated")
    fresh = stack.environment | {
        "DATABASE_URL": stack.postgres.url.rpartition("/")[0] + f"/{name}",
        "REDIS_URL": stack.valkey.url.removesuffix("/0") + f"/{number % 1000}",
        "CLAUDE_JOBS_CONCURRENCY": "20",
    }
    yield fresh
    maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def producer(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes this process a producer (and a reader) of the fresh system."""
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        get_engine.cache_clear()
        yield
        get_engine().dispose()
    get_settings.cache_clear()
    get_engine.cache_clear()


@pytest.fixture
def claude(stack: Stack) -> Iterator[SimulatedClaude]:
    """The simulated Claude with an empty ledger and no faults; what a test sets ends with it."""
    assert stack.claude is not None
    stack.claude.reset()
    stack.claude.configure(latency=0.0)
    yield stack.claude
    stack.claude.clear_faults()
    stack.claude.configure(latency=0.0, tokens_per_second=None, chunk_tokens=8, limits=None)


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for a condition: `eventually(lambda: job.state == "failed", "the job did not fail")`."""

    def wait(condition: Callable[[], bool], failure: str = "", seconds: float = 30) -> None:
        wait_until(condition, seconds=seconds, failure=failure or "the condition never held")

    return wait
