"""What the workload costs without this project: plain calls, and the seed article's approach.

Both are the SDK in a pool of threads, with the requests that our workers make: the same words,
schema and model. `plain` asks Claude for every job. `article` does what the article says of costs:
it serves identical inputs from a cache for a short while – in Redis, as long as ours does –, and
retries with backoff. The article marks no prefix for Claude's prompt cache, sends no batches, and
does not know of a call that is under way.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import redis
from anthropic import Anthropic

from benchmarks.plain.claude import call_with_retry
from benchmarks.saving_workload import VERSION, Arrival
from worker.claude.request import Request
from worker.engine.choose import Choice
from worker.engine.prepare import Preparer
from worker.engine.prompts import PromptLibrary
from worker.engine.registry import Registry

THREADS = 64
_KEYS = "benchmark-article:"

Output = dict[str, Any]


def requests(
    jobs: Sequence[Arrival], registry: Registry, preparer: Preparer, prompts: PromptLibrary
) -> list[Request]:
    """What is sent for each job, without a mark for the prompt cache."""
    made = []
    for job in jobs:
        prompt = prompts.get(job.task, VERSION)
        choice = Choice(registry[job.task], prompt, prompt.file.model)
        made.append(replace(preparer.prepare_input(choice, job.values).request, cache=None))
    return made


def plain(wanted: Sequence[Request], url: str) -> list[Output]:
    """A call for every job, as fast as the threads make them: when does not matter to the price."""
    with (
        Anthropic(api_key="simulated", base_url=url, max_retries=0) as client,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        return list(pool.map(lambda request: _ask(client, request), wanted))


def article(
    wanted: Sequence[Request],
    jobs: Sequence[Arrival],
    url: str,
    redis_url: str,
    *,
    window: float,
    speed: float,
) -> list[Output]:
    """The jobs when they come, in an hour that is `speed` times as fast.

    `window` is how long a reply is served again, in seconds of the hour.
    """
    with (
        Anthropic(api_key="simulated", base_url=url, max_retries=0) as client,
        redis.Redis.from_url(redis_url) as cache,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for key in cache.scan_iter(match=f"{_KEYS}*"):
            cache.delete(key)

        def run(request: Request) -> Output:
            return _cached(cache, request, window / speed, lambda: _ask(client, request))

        started, futures = time.monotonic(), []
        for job, request in zip(jobs, wanted, strict=True):
            time.sleep(max(0.0, started + job.at / speed - time.monotonic()))
            futures.append(pool.submit(run, request))
        return [future.result() for future in futures]


def _cached(
    cache: redis.Redis, request: Request, seconds: float, ask: Callable[[], Output]
) -> Output:
    text = json.dumps([request.model, request.system, request.user])
    key = _KEYS + hashlib.sha256(text.encode()).hexdigest()
    if (held := cache.get(key)) is not None:
        served: Output = json.loads(held)
        return served
    output = ask()
    cache.set(key, json.dumps(output), px=max(1, round(seconds * 1000)))
    return output


def _ask(client: Anthropic, request: Request) -> Output:
    parameters = request.parameters()
    reply = call_with_retry(lambda: client.messages.create(**parameters, timeout=120))
    output: Output = json.loads(reply.content[-1].text)
    return output
