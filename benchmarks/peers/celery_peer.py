"""Celery with everything off the article's way that costs: psycopg, one statement, late acks."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

import celery

from benchmarks.peers.job import Job, begin_process

for _noisy in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

app = celery.Celery("lean", broker=os.environ["PLAIN_BROKER_URL"], set_as_current=False)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@cache
def _job() -> Job:
    begin_process()
    return Job()


@celery.signals.worker_ready.connect
def _start(**_: Any) -> None:
    _job()


@app.task(name="plain.classify_ticket", bind=True)
def classify_ticket(self: celery.Task, **values: Any) -> None:
    _job().run(self.request.id, **values)
