"""Many streamed replies at once, by a worker that has one core: does it keep pace?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text

from benchmarks.contenders import ClaudeJobs
from benchmarks.measure import cpu_seconds, percentile, wait_for
from benchmarks.services import pinned
from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack
from worker.storage.engine import transaction

#: A task whose replies are long enough for a stream to matter.
KIND = "analyze_document"
CHUNKS_PER_SECOND, CHUNK_TOKENS = 50, 4
#: Seconds to the first chunk: all calls have begun before the first reply ends.
LATENCY = 8.0
SECONDS = 240

_CALLS = text("""
SELECT output_tokens, (latency_ms - first_token_ms) / 1000.0 AS seconds,
       extract(epoch FROM finished_at) AS ended
FROM usage WHERE outcome = 'ok'
""")


def measure(stack: Stack, claude: SimulatedClaude, *, streams: int) -> dict[str, Any]:
    """All streams at once, on a worker with one core; everything else has the others."""
    claude.configure(
        latency=LATENCY,
        tokens_per_second=float(CHUNKS_PER_SECOND * CHUNK_TOKENS),
        chunk_tokens=CHUNK_TOKENS,
    )
    claude.reset()
    with pinned(0):
        contender = ClaudeJobs(stack, "streams", streams, kind=KIND)
    with _on_another_core(claude.pid):
        contender.clear()
        contender.hold(streams, stream=True)
        cpu, theirs = cpu_seconds(contender.worker.pid), cpu_seconds(claude.pid)
        started = time.monotonic()
        contender.release()
        wait_for(
            lambda: contender.done() >= streams,
            seconds=SECONDS,
            what=f"{streams} streams",
            every=0.25,
        )
        seconds = time.monotonic() - started
        cpu = cpu_seconds(contender.worker.pid) - cpu
        theirs = cpu_seconds(claude.pid) - theirs
    contender.worker.stop()
    claude.configure(latency=0.0, tokens_per_second=None, chunk_tokens=8)
    with transaction() as connection:
        calls = connection.execute(_CALLS).all()
    chunks = [call.output_tokens / CHUNK_TOKENS for call in calls]
    took = [float(call.seconds) for call in calls]
    # Nothing is sent after the last chunk's pause, nor before the first one.
    rates = [(count - 1) / seconds for count, seconds in zip(chunks, took, strict=True)]
    spans = [(float(c.ended) - s, float(c.ended)) for c, s in zip(calls, took, strict=True)]
    return {
        "streams": streams,
        "chunks_per_second": CHUNKS_PER_SECOND,
        "max_streaming": max(sum(a <= start < b for a, b in spans) for start, _ in spans),
        "chunks": round(sum(chunks)),
        "seconds": seconds,
        "rate_p50": percentile(rates, 0.50),
        "rate_p05": percentile(rates, 0.05),
        "worker_core": cpu / seconds,
        "claude_core": theirs / seconds,
        "worker_us_per_chunk": cpu * 1e6 / sum(chunks),
        "worker_ms": cpu * 1000 / streams,
    }


@contextmanager
def _on_another_core(pid: int) -> Iterator[None]:
    """The simulated Claude, which has one thread, off the worker's core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(pid)
    os.sched_setaffinity(pid, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(pid, allowed)
