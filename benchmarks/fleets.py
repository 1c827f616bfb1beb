"""Several worker processes of one contender, and a backlog of jobs on each of some models."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from typing import Protocol

import redis
from celery import Celery
from sqlalchemy import text

from benchmarks.contenders import KIND, inputs, plain_environment
from benchmarks.plain.models import Base
from benchmarks.plain.produce import TASK
from sandbox.service import Service
from sandbox.stack import WORKER_COMMAND, Stack
from worker.engine.registry import load_registry
from worker.storage.engine import get_engine, transaction

PROCESSES = 4
#: Threads of all processes together that the jobs of one model may have; ours are not kept apart.
SLOTS_PER_MODEL = 128

#: Jobs that one INSERT makes visible: small beside the backlog, so that no model goes first.
_CHUNK = 50

_RAISED = re.compile(r" raised unexpected: ")

#: Names of Celery workers and queues: none is used twice.
_numbers = count(1)


class Fleet(Protocol):
    """A contender; its workers are started when it is made, and up after `wait_ready`."""

    name: str

    def wait_ready(self) -> None:
        """Back when all workers consume."""

    def feed(self, jobs: int) -> None:
        """Give it so many jobs on each model, as good as at once."""

    def lost(self) -> tuple[int, int]:
        """How many jobs have failed for good, and how many have ended."""

    def fed(self) -> bool:
        """Whether every model still has jobs that wait."""

    def stop(self) -> None:
        """End the workers and forget the jobs."""


class OurFleet:
    """claude-jobs: every process serves all models; the limits are learned."""

    def __init__(self, stack: Stack, models: Sequence[str]) -> None:
        self.name = "claude-jobs"
        self._models, self._task = models, load_registry()[KIND]
        # What other measurements taught the fleet of an account without limits.
        with redis.Redis.from_url(stack.environment["REDIS_URL"]) as client:
            for key in client.scan_iter(match="claude-jobs:limits:*"):
                client.delete(key)
        slots = SLOTS_PER_MODEL * len(models) // PROCESSES
        environment = stack.environment | {"CLAUDE_JOBS_CONCURRENCY": str(slots)}
        names = [f"goodput-{next(_numbers)}" for _ in range(PROCESSES)]
        commands = [WORKER_COMMAND.format(app="worker", name=name).split() for name in names]
        self._services = _start(stack, [(command, environment) for command in commands])

    def wait_ready(self) -> None:
        _wait_ready(self._services)

    def feed(self, jobs: int) -> None:
        values = inputs(jobs)
        for first in range(0, jobs, _CHUNK):
            for model in self._models:
                self._task.enqueue_many(
                    [self._task.new_job(v, model=model) for v in values[first : first + _CHUNK]]
                )

    def lost(self) -> tuple[int, int]:
        with transaction() as connection:
            rows = connection.execute(text("SELECT state, count(*) FROM jobs GROUP BY 1")).all()
        states = {row[0]: int(row[1]) for row in rows}
        failed = states.get("failed", 0)
        return failed, failed + states.get("succeeded", 0)

    def fed(self) -> bool:
        with transaction() as connection:
            query = text("SELECT DISTINCT model FROM jobs WHERE state = 'queued'")
            return set(connection.execute(query).scalars()) >= set(self._models)

    def stop(self) -> None:
        _stop(self._services)
        with transaction() as connection:
            connection.execute(text("TRUNCATE jobs, results, usage CASCADE"))


class PlainFleet:
    """The peer with one of its strategies: processes of their own for each model.

    So a limit that is met for one model holds up no jobs on the others, as a plain queue would.
    `buckets` is what the static limiter of one process may use, by model.
    """

    def __init__(
        self,
        stack: Stack,
        models: Sequence[str],
        strategy: str,
        name: str,
        buckets: Mapping[str, Sequence[float]],
    ) -> None:
        self.name, self.strategy = name, strategy
        Base.metadata.create_all(get_engine())
        environment = plain_environment(stack.environment)
        self._redis = redis.Redis.from_url(environment["PLAIN_BROKER_URL"])
        self._app = Celery(broker=environment["PLAIN_BROKER_URL"], set_as_current=False)
        self._queues = {model: f"plain-goodput-{next(_numbers)}" for model in models}
        slots = SLOTS_PER_MODEL // PROCESSES
        commands = []
        for model, queue in self._queues.items():
            variables = {
                "PLAIN_STRATEGY": strategy,
                "PLAIN_BUCKETS": json.dumps(buckets[model]),
                "PLAIN_POOL_SIZE": "4",
            }
            for number in range(PROCESSES):
                command = [
                    *("python", "-m", "celery", "-A", "benchmarks.plain.app", "worker"),
                    *f"--pool=threads --concurrency={slots} --queues={queue}".split(),
                    "--loglevel=INFO",
                    *f"--hostname={queue}-{number}@%h".split(),
                    *("--without-gossip", "--without-mingle", "--task-events"),
                    # What is prefetched waits in one process, and is no part of the queue's length.
                    "--prefetch-multiplier=1",
                ]
                commands.append((command, environment | variables))
        self._services = _start(stack, commands)

    def wait_ready(self) -> None:
        _wait_ready(self._services)

    def feed(self, jobs: int) -> None:
        with self._app.producer_pool.acquire(block=True) as producer:
            for model, queue in self._queues.items():
                for values in inputs(jobs):
                    given = {**values, "user_id": "goodput", "model": model}
                    self._app.send_task(
                        TASK, kwargs=given, queue=f"{queue}-held", producer=producer
                    )
        for queue in self._queues.values():
            self._redis.rename(f"{queue}-held", queue)

    def lost(self) -> tuple[int, int]:
        failed = sum(len(_RAISED.findall(service.log_text())) for service in self._services)
        with transaction() as connection:
            stored = connection.execute(text("SELECT count(*) FROM plain_results")).scalar_one()
        return failed, failed + int(stored)

    def fed(self) -> bool:
        return all(self._redis.llen(queue) for queue in self._queues.values())

    def stop(self) -> None:
        # Without their grace: what is left in the queue would fill the time.
        for service in self._services:
            service.kill()
        self._redis.delete(*self._queues.values(), "unacked", "unacked_index")
        self._redis.close()
        with transaction() as connection:
            connection.execute(text("TRUNCATE plain_results, plain_usage"))


def _start(stack: Stack, commands: Sequence[tuple[list[str], Mapping[str, str]]]) -> list[Service]:
    services = []
    for command, environment in commands:
        name = f"goodput-process-{next(_numbers)}"
        service = Service(command, environment, stack.logs / f"{name}.log").start()
        stack.services[name] = service
        services.append(service)
    return services


def _wait_ready(services: Sequence[Service]) -> None:
    for service in services:
        service.wait_ready(partial(_is_ready, service), seconds=120)


def _is_ready(service: Service) -> bool:
    return " ready." in service.log_text()


def _stop(services: Sequence[Service]) -> None:
    for service in services:
        if service.process is not None:
            service.process.terminate()
    for service in services:
        service.stop()
