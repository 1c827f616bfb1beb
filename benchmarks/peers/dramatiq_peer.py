"""dramatiq: an actor, run by the threads of one process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage, Middleware

from benchmarks.peers.job import BROKER, Job, begin_process

broker = RedisBroker(url=BROKER)


class _Start(Middleware):
    def after_process_boot(self, broker: Any) -> None:
        global _job  # noqa: PLW0603 – built after the fork
        begin_process()
        _job = Job()


_job: Job
broker.add_middleware(CurrentMessage())
broker.add_middleware(_Start())
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=3)
def classify_ticket(**values: Any) -> None:
    _job.run(CurrentMessage.get_current_message().message_id, **values)


async def enqueue(jobs: Iterable[dict[str, Any]]) -> None:
    for values in jobs:
        classify_ticket.send(**values)
