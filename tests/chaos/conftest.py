"""Servers of their own, which may be killed, and the numbers of the short and the long version.

`make chaos` sets CHAOS_LONG=1 and takes a random seed, which it prints; CHAOS_SEED=… repeats one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random

import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack, servers
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.settings import get_settings
from worker.storage.engine import get_engine

LONG = os.environ.get("CHAOS_LONG") == "1"
#: In the environment, so that pytest-xdist's processes see the same.
SEED = int(os.environ.setdefault("CHAOS_SEED", str(secrets.randbelow(1_000_000) if LONG else 1)))

_numbers = count(1)

#: What every system is set to, unless a test says otherwise: small and quick to notice.
QUICK = {
    "CLAUDE_JOBS_CONCURRENCY": "20",
    "CLAUDE_JOBS_CACHE_SECONDS": "0",
    "CLAUDE_JOBS_POLL_SECONDS": "0.2",
    "CLAUDE_JOBS_LEASE_SECONDS": "2",
    "CLAUDE_JOBS_REDISPATCH_SECONDS": "20" if LONG else "2",
    "CLAUDE_JOBS_SHUTDOWN_GRACE_SECONDS": "1",
}


def pytest_report_header() -> str:
    return f"chaos: CHAOS_SEED={SEED} CHAOS_LONG={int(LONG)}"


@pytest.fixture
def scale() -> Callable[[int, int], int]:
    """The first number in the long version, the second in the short one."""
    return lambda long, short: long if LONG else short


@pytest.fixture
def rng() -> Random:
    """What decides when and what is hit."""
    print(f"CHAOS_SEED={SEED}")  # noqa: T201 – shown when the test fails
    return Random(SEED)  # noqa: S311 – no secret


@pytest.fixture(scope="session")
def chaos_stack() -> Iterator[Stack]:
    """Servers that tests may restart, freeze and wipe; never those of the other tests."""
    folder = Path(tempfile.mkdtemp(prefix="claude-jobs-chaos-"))
    folder.chmod(0o711)
    try:
        with servers(folder, durable=LONG, claude=SimulatedClaude(seed=SEED)) as started:
            started.postgres.create_database("migrated", template="claude_jobs")
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_system(chaos_stack: Stack) -> Callable[..., object]:
    """`with new_system(CLAUDE_JOBS_…="…") as system:` a fresh one; one at a time."""

    @contextmanager
    def new(**extra: str) -> Iterator[System]:
        number = next(_numbers)
        name = f"chaos_{number}"
        environment = (
            chaos_stack.environment
            | QUICK
            | {
                "DATABASE_URL": chaos_stack.postgres.create_database(name, template="migrated"),
                "REDIS_URL": chaos_stack.valkey.url.removesuffix("/0") + f"/{number}",
            }
            | extra
        )
        system = System(chaos_stack, environment)
        system.claude.reset()
        system.claude.configure(latency=0.0, tokens_per_second=None, chunk_tokens=8)
        yield system
        system.close()
        chaos_stack.postgres.drop_database(name)

    return new


@pytest.fixture
def system(new_system: Callable[..., object]) -> Iterator[System]:
    """A fresh system on servers that run."""
    with new_system() as fresh:  # type: ignore[attr-defined]
        yield fresh


@pytest.fixture
def fleet(system: System) -> Iterator[Fleet]:
    """The system's workers, none at first."""
    workers = Fleet(system)
    yield workers
    workers.stop()


@pytest.fixture
def producing(system: System) -> Iterator[None]:
    """Makes this process a producer of the system."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in system.environment.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        get_engine.cache_clear()
        yield
        get_engine().dispose()
    get_settings.cache_clear()
    get_engine.cache_clear()
