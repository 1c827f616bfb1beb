"""taskiq: a coroutine, behind the one Redis broker of its that acknowledges messages."""

import logging
from collections.abc import Iterable
from typing import Annotated, Any

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from benchmarks.peers.job import BROKER, AsyncJob, begin_process

broker = RedisStreamBroker(url=BROKER, consumer_id="0")


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def _start(state: TaskiqState) -> None:
    begin_process()
    state.job = await AsyncJob().open()
    logging.getLogger("taskiq.receiver.receiver").setLevel(logging.WARNING)
    print("taskiq is ready", flush=True)


@broker.task(task_name="classify_ticket")
async def classify_ticket(
    subject: str,
    body: str,
    categories: list[str],
    user_id: str,
    context: Annotated[Context, TaskiqDepends()],
) -> None:
    await context.state.job.run(
        context.message.task_id, user_id, subject=subject, body=body, categories=categories
    )


async def enqueue(jobs: Iterable[dict[str, Any]]) -> None:
    await broker.startup()
    for values in jobs:
        await classify_ticket.kiq(**values)
    await broker.shutdown()
