"""Who is compared, behind one face: hold jobs back, let them go, count what is done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import cycle, islice
from typing import Any, Protocol

import redis
from celery import Celery
from sqlalchemy import text

from benchmarks.plain.models import Base
from benchmarks.plain.produce import TASK
from benchmarks.services import Fleet
from sandbox.samples import load_samples
from sandbox.service import Service
from sandbox.stack import Stack
from worker.engine.registry import load_registry
from worker.storage.engine import get_engine, transaction

#: The shortest of the shipped tasks: the smaller the job, the more its overhead shows.
KIND = "classify_ticket"
SAMPLES = load_samples(KIND)


def inputs(count: int, kind: str = KIND) -> list[dict[str, Any]]:
    """`count` inputs, the samples over and over."""
    return list(islice(cycle(SAMPLES if kind == KIND else load_samples(kind)), count))


class Contender(Protocol):
    """A queue with one worker, and jobs for it that are held back until they are let go."""

    name: str
    worker: Service

    def hold(self, jobs: int) -> None:
        """Enqueue jobs that no worker can see yet."""

    def release(self) -> None:
        """Let the worker see them, all at once."""

    def done(self) -> int:
        """How many are finished, with their rows committed."""

    def clear(self) -> None:
        """Empty the tables."""


class Sender(Contender, Protocol):
    """A contender to which jobs can be sent one by one."""

    def send(self, values: Mapping[str, Any], user_id: str) -> None:
        """Enqueue one job, visible at once."""


class ClaudeJobs:
    """This project: the transaction that enqueues is committed when the jobs are released."""

    def __init__(
        self, stack: Stack, label: str, concurrency: int, *, kind: str = KIND, **environment: str
    ) -> None:
        self.name = "claude-jobs"
        self.worker = stack.start_worker(
            f"ours-{label}", CLAUDE_JOBS_CONCURRENCY=str(concurrency), **environment
        )
        self._task = load_registry()[kind]
        self._held = ExitStack()

    def hold(self, jobs: int, **options: Any) -> None:
        connection = self._held.enter_context(transaction())
        new = [
            self._task.new_job(values, user_id=f"user-{number}", **options)
            for number, values in enumerate(inputs(jobs, self._task.name))
        ]
        self._task.enqueue_many(new, session=connection)

    def release(self) -> None:
        self._held.close()

    def done(self) -> int:
        return count("SELECT count(*) FROM results")

    def send(self, values: Mapping[str, Any], user_id: str, **options: Any) -> None:
        self._task.enqueue(**values, user_id=user_id, **options)

    def clear(self) -> None:
        truncate("jobs, results, usage")


class PlainCelery:
    """The peer: its messages wait in a list of their own, which then takes the queue's name.

    Args:
        concurrency: threads, greenlets or processes.
        python: of another environment, where `pool` needs packages of its own.
        app: another app that has the peer's task.
        environment: in place of the sandbox's own.
    """

    def __init__(
        self,
        stack: Stack,
        label: str,
        concurrency: int,
        *,
        pool: str = "threads",
        events: bool = True,
        name: str = "plain Celery",
        python: str = "python",
        app: str = "benchmarks.plain.app",
        **environment: str,
    ) -> None:
        self.name = name
        # A queue each: several peers may run on the one broker.
        self._queue = f"plain-{label}"
        Base.metadata.create_all(get_engine())
        command = [
            python,
            *f"-m celery -A {app} worker --pool={pool}".split(),
            *f"--concurrency={concurrency} --queues={self._queue}".split(),
            *f"--hostname={self._queue}@%h --loglevel=INFO".split(),
            *("--without-gossip", "--without-mingle"),
            *(["--task-events"] if events else []),
        ]
        log = stack.logs / f"{self._queue}.log"
        self.worker = Fleet(command, plain_environment(stack.environment | environment), log)
        stack.services[self._queue] = self.worker
        self.worker.start().wait_ready(lambda: " ready." in self.worker.log_text())
        # The producer's way is direct, whatever the worker's is.
        broker = plain_environment(stack.environment)["PLAIN_BROKER_URL"]
        self._redis = redis.Redis.from_url(broker)
        self._app = Celery(broker=broker, set_as_current=False)

    def hold(self, jobs: int) -> None:
        for number, values in enumerate(inputs(jobs)):
            self._publish(values, f"user-{number}", f"{self._queue}-held")

    def release(self) -> None:
        self._redis.rename(f"{self._queue}-held", self._queue)

    def done(self) -> int:
        return count("SELECT count(*) FROM plain_results")

    def send(self, values: Mapping[str, Any], user_id: str) -> None:
        self._publish(values, user_id, self._queue)

    def clear(self) -> None:
        truncate("plain_results, plain_usage")

    def _publish(self, values: Mapping[str, Any], user_id: str, queue: str) -> None:
        self._app.send_task(TASK, kwargs={**values, "user_id": user_id}, queue=queue)


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the peer's programs need to know; its broker is another database of the same server."""
    return {**environment, "PLAIN_BROKER_URL": redis_database(environment, 1)}


def redis_database(environment: Mapping[str, str], number: int) -> str:
    """Another database of the same server."""
    return environment["REDIS_URL"].removesuffix("/0") + f"/{number}"


def count(statement: str) -> int:
    """What a `SELECT count(*)` says."""
    with transaction() as connection:
        return int(connection.execute(text(statement)).scalar_one())


def truncate(tables: str) -> None:
    """Empty the tables, and what refers to them."""
    with transaction() as connection:
        connection.execute(text(f"TRUNCATE {tables} CASCADE"))
