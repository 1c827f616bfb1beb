"""procrastinate: a coroutine; its queue is in Postgres, as ours is."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import procrastinate

from benchmarks.peers.job import AsyncJob, begin_process

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE_URL"])
)
_opened: asyncio.Task[AsyncJob] | None = None


@app.task(name="classify_ticket", pass_context=True)
async def classify_ticket(context: procrastinate.JobContext, **values: Any) -> None:
    global _opened  # noqa: PLW0603 – opened once, in the loop of the worker
    if _opened is None:
        begin_process()
        # It logs two lines a job, inputs included.
        for noisy in ("procrastinate.worker", "procrastinate.worker.worker"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        _opened = asyncio.create_task(AsyncJob().open())
    await (await _opened).run(str(context.job.id), **values)
