"""The two that are compared, behind one face: hold jobs back, let them go, count what is done."""

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
from sandbox.samples import load_samples
from sandbox.service import Service
from sandbox.stack import Stack
from worker.engine.registry import load_registry
from worker.storage.engine import get_engine, transaction

#: The shortest of the shipped tasks: the smaller the job, the more its overhead shows.
KIND = "classify_ticket"
SAMPLES = load_samples(KIND)


def inputs(count: int) -> list[dict[str, Any]]:
    """`count` inputs, the samples over and over."""
    return list(islice(cycle(SAMPLES), count))


class Contender(Protocol):
    """A queue with one worker."""

    name: str
    worker: Service

    def hold(self, jobs: int) -> None:
        """Enqueue jobs that no worker can see yet."""

    def release(self) -> None:
        """Let the worker see them, all at once."""

    def done(self) -> int:
        """How many are finished, with their rows committed."""

    def send(self, values: Mapping[str, Any], user_id: str) -> None:
        """Enqueue one job, visible at once."""

    def clear(self) -> None:
        """Empty the tables."""


class ClaudeJobs:
    """This project: the transaction that enqueues is committed when the jobs are released."""

    def __init__(self, stack: Stack, label: str, concurrency: int) -> None:
        self.name = "claude-jobs"
        self.worker = stack.start_worker(f"ours-{label}", CLAUDE_JOBS_CONCURRENCY=str(concurrency))
        self._task = load_registry()[KIND]
        self._held = ExitStack()

    def hold(self, jobs: int) -> None:
        connection = self._held.enter_context(transaction())
        new = [
            self._task.new_job(values, user_id=f"user-{number}")
            for number, values in enumerate(inputs(jobs))
        ]
        self._task.enqueue_many(new, session=connection)

    def release(self) -> None:
        self._held.close()

    def done(self) -> int:
        return _count("SELECT count(*) FROM results")

    def send(self, values: Mapping[str, Any], user_id: str) -> None:
        self._task.enqueue(**values, user_id=user_id)

    def clear(self) -> None:
        _truncate("jobs, results, usage")


class PlainCelery:
    """The peer: its messages wait in a list of their own, which then takes the queue's name."""

    def __init__(
        self,
        stack: Stack,
        label: str,
        concurrency: int,
        *,
        pool: str = "threads",
        events: bool = True,
        name: str = "plain Celery",
    ) -> None:
        self.name = name
        # A queue each: several peers may run on the one broker.
        self._queue = f"plain-{label}"
        environment = plain_environment(stack)
        Base.metadata.create_all(get_engine())
        command = [
            *f"python -m celery -A benchmarks.plain.app worker --pool={pool}".split(),
            *f"--concurrency={concurrency} --queues={self._queue}".split(),
            *f"--hostname={self._queue}@%h --loglevel=INFO".split(),
            *("--without-gossip", "--without-mingle"),
            *(["--task-events"] if events else []),
        ]
        log = stack.logs / f"{self._queue}.log"
        self.worker = Service(command, environment, log)
        self.worker.start().wait_ready(lambda: " ready." in self.worker.log_text())
        stack.services[self._queue] = self.worker
        self._redis = redis.Redis.from_url(environment["PLAIN_BROKER_URL"])
        self._app = Celery(broker=environment["PLAIN_BROKER_URL"], set_as_current=False)

    def hold(self, jobs: int) -> None:
        for number, values in enumerate(inputs(jobs)):
            self._publish(values, f"user-{number}", f"{self._queue}-held")

    def release(self) -> None:
        self._redis.rename(f"{self._queue}-held", self._queue)

    def done(self) -> int:
        return _count("SELECT count(*) FROM plain_results")

    def send(self, values: Mapping[str, Any], user_id: str) -> None:
        self._publish(values, user_id, self._queue)

    def clear(self) -> None:
        _truncate("plain_results, plain_usage")

    def _publish(self, values: Mapping[str, Any], user_id: str, queue: str) -> None:
        self._app.send_task(TASK, kwargs={**values, "user_id": user_id}, queue=queue)


def plain_environment(stack: Stack) -> dict[str, str]:
    """What the peer's programs need to know; its broker is another database of the same server."""
    broker = stack.environment["REDIS_URL"].removesuffix("/0") + "/1"
    return stack.environment | {"PLAIN_BROKER_URL": broker}


def _count(statement: str) -> int:
    with transaction() as connection:
        return int(connection.execute(text(statement)).scalar_one())


def _truncate(tables: str) -> None:
    with transaction() as connection:
        connection.execute(text(f"TRUNCATE {tables}"))
