"""rq: a pool of workers that run one job each at a time, in their own process.

Its default worker forks for every job, and each fork makes a client and a connection of its own;
`SimpleWorker` keeps them, which is the better case for rq here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker, get_current_job
from rq.worker_pool import WorkerPool

from benchmarks.peers.job import BROKER, CONCURRENCY, Job, begin_process


@cache
def _job() -> Job:
    begin_process()
    return Job()


def classify_ticket(**values: Any) -> None:
    _job().run(get_current_job().id, **values)


async def enqueue(jobs: Iterable[dict[str, Any]]) -> None:
    queue = Queue(connection=Redis.from_url(BROKER))
    for values in jobs:
        # By its name: in the worker the running module goes by another one.
        queue.enqueue(f"{__name__}.classify_ticket", kwargs=values, result_ttl=0)


def main() -> None:
    """Run the pool until SIGTERM."""
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    pool = WorkerPool(
        ["default"],
        connection=Redis.from_url(BROKER),
        num_workers=CONCURRENCY,
        worker_class=SimpleWorker,
    )
    pool.start(logging_level="WARNING")


if __name__ == "__main__":
    main()
