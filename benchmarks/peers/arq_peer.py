"""arq: a coroutine, and a worker described by a class of settings."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.peers.job import BROKER, CONCURRENCY, AsyncJob, begin_process


async def classify_ticket(ctx: dict[str, Any], **values: Any) -> None:
    await ctx["job"].run(ctx["job_id"], **values)


async def _start(ctx: dict[str, Any]) -> None:
    begin_process()
    ctx["job"] = await AsyncJob().open()
    logging.getLogger("arq.worker").setLevel(logging.WARNING)


class WorkerSettings:
    functions = (classify_ticket,)
    on_startup = _start
    redis_settings = RedisSettings.from_dsn(BROKER)
    max_jobs = CONCURRENCY
    keep_result = 0  # nobody keeps results in Redis here


async def enqueue(jobs: Iterable[dict[str, Any]]) -> None:
    pool = await create_pool(WorkerSettings.redis_settings)
    for values in jobs:
        await pool.enqueue_job("classify_ticket", **values)
    await pool.aclose()
