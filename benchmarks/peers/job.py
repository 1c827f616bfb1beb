"""The job that every peer does, as a function and as a coroutine.

The steps are those of `benchmarks.plain`. The two rows are written the cheapest way there is: by
psycopg, in one statement, which is committed before the queue is told that the job is done.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from typing import Any

from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from benchmarks.plain import claude
from sandbox.process import die_with_parent
from tasks.classify_ticket import Output

BROKER = os.environ.get("PEER_BROKER_URL", "")
CONCURRENCY = int(os.environ.get("PEER_CONCURRENCY", "50"))
POOL = int(os.environ.get("PLAIN_POOL_SIZE", "10"))

log = logging.getLogger("token-usage")

_STORE = """
WITH result AS (
    INSERT INTO plain_results (job_id, prompt_version, output)
    VALUES (%(job_id)s, %(prompt_version)s, %(output)s)
)
INSERT INTO plain_usage (job_id, user_id, model, prompt_version, input_tokens, output_tokens,
                         latency_ms)
VALUES (%(job_id)s, %(user_id)s, %(model)s, %(prompt_version)s, %(input_tokens)s,
        %(output_tokens)s, %(latency_ms)s)
"""


def begin_process() -> None:
    """One line of log a job, as on the other sides; and no child outlives a killed parent."""
    die_with_parent(os.getppid(), signal.SIGKILL)
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    for noisy in ("httpx2", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def request(subject: str, body: str, categories: list[str], user_id: str) -> dict[str, Any]:
    """The arguments of `messages.create`."""
    return {
        "model": claude.MODEL,
        "max_tokens": claude.MAX_TOKENS,
        "system": claude.SYSTEM,
        "messages": [{"role": "user", "content": claude.template(subject, body, categories)}],
        "output_config": claude.OUTPUT_CONFIG,
        "metadata": {"user_id": user_id},
    }


def row(job_id: str, user_id: str, response: Message, started: float) -> dict[str, Any]:
    """The validated output and what it used, for both rows; `started` by the monotonic clock."""
    latency_ms = round((time.monotonic() - started) * 1000)
    block = response.content[0]
    output = Output.model_validate(json.loads(block.text if block.type == "text" else ""))
    used = response.usage
    log.info("%s: %s in, %s out", user_id, used.input_tokens, used.output_tokens)
    return {
        "job_id": job_id,
        "user_id": user_id,
        "model": response.model,
        "prompt_version": claude.VERSION,
        "output": output.model_dump_json(),
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "latency_ms": latency_ms,
    }


class Job:
    """The job for queues that run functions, from any number of threads."""

    def __init__(self) -> None:
        self._client = Anthropic()
        self._pool = ConnectionPool(
            os.environ["DATABASE_URL"],
            min_size=POOL,
            max_size=POOL,
            timeout=60,
            kwargs={"autocommit": True},
            open=True,
        )

    def run(self, job_id: str, user_id: str, **values: Any) -> None:
        """Ask Claude and store what came of it."""
        asked = request(**values, user_id=user_id)
        started = time.monotonic()
        response = claude.call_with_retry(lambda: self._client.messages.create(**asked))
        stored = row(job_id, user_id, response, started)
        with self._pool.connection() as connection:
            connection.execute(_STORE, stored)


class AsyncJob:
    """The job for queues that run coroutines; to be opened in their event loop."""

    def __init__(self) -> None:
        self._client = AsyncAnthropic()
        self._pool = AsyncConnectionPool(
            os.environ["DATABASE_URL"],
            min_size=POOL,
            max_size=POOL,
            timeout=60,
            kwargs={"autocommit": True},
            open=False,
        )

    async def open(self) -> AsyncJob:
        """Connect to Postgres."""
        await self._pool.open(wait=True)
        return self

    async def run(self, job_id: str, user_id: str, **values: Any) -> None:
        """Ask Claude and store what came of it."""
        asked = request(**values, user_id=user_id)
        started = time.monotonic()
        response = await self._call(asked)
        stored = row(job_id, user_id, response, started)
        async with self._pool.connection() as connection:
            await connection.execute(_STORE, stored)

    async def _call(self, asked: dict[str, Any], max_retries: int = 3) -> Message:
        for attempt in range(max_retries):
            try:
                return await self._client.messages.create(**asked)
            except claude.ERRORS as error:
                await asyncio.sleep(claude.delay_after(error, attempt))
        return await self._client.messages.create(**asked)
