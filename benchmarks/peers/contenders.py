"""The peers as contenders: who they are, and how their jobs are held back and let go."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import text

from benchmarks.contenders import Contender, PlainCelery, count, inputs, redis_database, truncate
from benchmarks.environment import MISSING, PEERS_PYTHON, installed
from benchmarks.measure import BenchmarkError
from benchmarks.peers.floor import KEY
from benchmarks.plain.models import Base
from benchmarks.services import Fleet
from sandbox.service import PROJECT
from sandbox.stack import Stack
from worker.storage.engine import get_engine, transaction

#: Redis databases of the peers begin here; the last one is where jobs wait.
_FIRST, _STAGING = 2, 15


@dataclass(frozen=True)
class Peer:
    """A worker's command line, and what it logs when it is ready."""

    name: str
    module: str
    command: Sequence[str]
    ready: str
    concurrency: int = 50


class _Worker:
    """A peer's worker, its rows and its Redis database."""

    def __init__(self, stack: Stack, peer: Peer, database: int, python: Path | str) -> None:
        self.name = peer.name
        self._environment = stack.environment | {
            "PEER_BROKER_URL": redis_database(stack.environment, database),
            "PEER_CONCURRENCY": str(peer.concurrency),
        }
        Base.metadata.create_all(get_engine())
        self._prepare(python)
        command = [str(python), *(part.format(**vars(peer)) for part in peer.command)]
        log = stack.logs / f"{peer.module}.log"
        self.worker = Fleet(command, self._environment, log)
        stack.services[peer.module] = self.worker
        self.worker.start().wait_ready(lambda: peer.ready in self.worker.log_text())
        self._live = redis.Redis.from_url(self._environment["PEER_BROKER_URL"])

    def done(self) -> int:
        return count("SELECT count(*) FROM plain_results")

    def clear(self) -> None:
        truncate("plain_results, plain_usage")

    def _prepare(self, python: Path | str) -> None:
        """Before the worker starts."""

    def _run(self, *command: str, **extra: str) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        ended = subprocess.run(
            command,
            cwd=PROJECT,
            env=inherited | self._environment | extra,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if ended.returncode:
            raise BenchmarkError(f"{self.name}: {ended.stderr.strip().splitlines()[-1]}")


class OnRedis(_Worker):
    """Its own API enqueues into another database of the server, from which the keys are moved."""

    def __init__(self, stack: Stack, peer: Peer, database: int, python: Path | str) -> None:
        super().__init__(stack, peer, database, python)
        self._module, self._database = peer.module, database
        self._staging_url = redis_database(stack.environment, _STAGING)
        self._staging = redis.Redis.from_url(self._staging_url)
        self._python = str(python)

    def hold(self, jobs: int) -> None:
        self._staging.flushdb()
        command = ("-m", "benchmarks.peers.produce", self._module, str(jobs))
        self._run(self._python, *command, PEER_BROKER_URL=self._staging_url)

    def release(self) -> None:
        moving, adding = self._staging.pipeline(), self._live.pipeline()
        # A job's own keys first: once the queue is there, it may be taken.
        for key in sorted(self._staging.scan_iter(), key=self._is_queue):
            match self._staging.type(key):
                case b"stream":
                    for _, fields in self._staging.xrange(key):
                        adding.xadd(key, fields)
                case b"set":
                    adding.sadd(key, *self._staging.smembers(key))
                case _:
                    moving.move(key, self._database)
        moving.execute()
        adding.execute()

    def _is_queue(self, key: bytes) -> bool:
        return self._staging.type(key) in (b"list", b"zset", b"stream")


class Procrastinate(_Worker):
    """Its jobs are rows of the same Postgres, in a transaction that is left open."""

    def __init__(self, stack: Stack, peer: Peer, database: int, python: Path | str) -> None:
        super().__init__(stack, peer, database, python)
        self._held = ExitStack()

    def hold(self, jobs: int) -> None:
        connection = self._held.enter_context(transaction())
        statement = text(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            " VALUES ('default', 'classify_ticket', cast(:args AS jsonb))"
        )
        rows = [
            {"args": json.dumps({**values, "user_id": f"user-{number}"})}
            for number, values in enumerate(inputs(jobs))
        ]
        connection.execute(statement, rows)

    def release(self) -> None:
        self._held.close()

    def _prepare(self, python: Path | str) -> None:
        app = "--app=benchmarks.peers.procrastinate_peer.app"
        self._run(str(python), "-m", "procrastinate", app, "schema", "--apply")


class Floor(_Worker):
    """No queue at all: it is told a number."""

    def hold(self, jobs: int) -> None:
        self._jobs = jobs

    def release(self) -> None:
        self._live.rpush(KEY, self._jobs)


FLOOR = "threads + SDK, no queue"
LEAN = "lean Celery, threads"

_PEERS: Sequence[tuple[type[_Worker], Peer]] = (
    (
        OnRedis,
        Peer(
            "arq", "arq_peer", ("-m", "arq", "benchmarks.peers.{module}.WorkerSettings"), "Starting"
        ),
    ),
    (
        OnRedis,
        Peer(
            "taskiq",
            "taskiq_peer",
            (
                *("-m", "taskiq", "worker", "benchmarks.peers.{module}:broker", "--workers=1"),
                "--max-async-tasks={concurrency}",
            ),
            "taskiq is ready",
        ),
    ),
    (
        OnRedis,
        Peer(
            "dramatiq",
            "dramatiq_peer",
            (
                *("-m", "dramatiq", "benchmarks.peers.{module}", "--processes=1"),
                "--threads={concurrency}",
            ),
            "ready for action",
        ),
    ),
    (
        OnRedis,
        Peer("rq × 8 processes", "rq_peer", ("-m", "benchmarks.peers.{module}"), "", concurrency=8),
    ),
    (
        Procrastinate,
        Peer(
            "procrastinate",
            "procrastinate_peer",
            (
                *("-m", "procrastinate", "--app=benchmarks.peers.{module}.app", "worker"),
                "--concurrency={concurrency}",
            ),
            "Starting worker",
        ),
    ),
)


def makers(stack: Stack, concurrency: int) -> Mapping[str, Callable[[], Contender]]:
    """Every peer by name; those of `.venv-bench` come last."""
    gevent = "plain Celery, gevent"
    made: dict[str, Callable[[], Contender]] = {
        LEAN: lambda: PlainCelery(
            stack, "lean", concurrency, name=LEAN, app="benchmarks.peers.celery_peer"
        ),
        FLOOR: lambda: Floor(
            stack, Peer(FLOOR, "floor", ("-m", "benchmarks.peers.floor"), "ready"), 14, "python"
        ),
        gevent: _installed(
            lambda: PlainCelery(
                stack, "gevent", concurrency, pool="gevent", name=gevent, python=str(PEERS_PYTHON)
            )
        ),
    }
    for number, (kind, peer) in enumerate(_PEERS):
        made[peer.name] = _installed(partial(kind, stack, peer, _FIRST + number, PEERS_PYTHON))
    return made


def _installed(make: Callable[[], Any]) -> Callable[[], Any]:
    def make_if_installed() -> Any:
        if not installed():
            raise BenchmarkError(MISSING)
        return make()

    return make_if_installed
