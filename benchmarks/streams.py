"""Many streamed replies at once, by a worker that has one core: does it keep pace?

Once without publishing what is written, then with it, each stream followed by a reader, beside
threads that only read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import text

from benchmarks.contenders import ClaudeJobs, inputs
from benchmarks.following import after_first_text, delays, job_ids, readers, summary
from benchmarks.measure import BenchmarkError, cpu_seconds, percentile, wait_for
from benchmarks.services import pinned
from sandbox.claude.client import SimulatedClaude
from sandbox.service import Service
from sandbox.stack import Stack
from worker.storage.engine import transaction

#: A task whose replies are long enough for a stream to matter.
KIND = "analyze_document"
CHUNKS_PER_SECOND, CHUNK_TOKENS = 50, 4
#: Seconds to the first chunk: all calls have begun before the first reply ends.
LATENCY = 8.0
SECONDS = 240
#: Streams that are measured one at a time.
ALONE = 10

_CALLS = text("""
SELECT output_tokens, (latency_ms - first_token_ms) / 1000.0 AS seconds,
       extract(epoch FROM finished_at) AS ended
FROM usage WHERE outcome = 'ok'
""")


def measure(stack: Stack, claude: SimulatedClaude, *, streams: int, rounds: int) -> dict[str, Any]:
    """All streams at once, on a worker with one core; everything else has the others.

    How soon first texts are read is measured in rounds, each beside the floor: what another program
    that shares the core costs, both pay.
    """
    # Nothing published first: on the way the fleet learns its limits, and then starts at once.
    silent, _ = _run(stack, claude, "silent", streams, CLAUDE_JOBS_STREAM_MAX_BYTES="0")
    published: dict[str, Any] = {}
    ours: list[float] = []
    floor: list[float] = []
    for number in range(rounds):
        published, delayed = _run(stack, claude, f"published-{number}", streams)
        ours += delayed
        floor += _floor(stack, claude, number, streams)
    return {
        **published,
        "rounds": rounds,
        "unpublished_core": silent["worker_core"],
        "unpublished_ms": silent["worker_ms"],
        "alone_first_delta_ms": percentile(_one_at_a_time(stack, claude), 0.50),
        **summary(ours, "first_delta"),
        **summary(floor, "floor_first_delta"),
    }


def _run(
    stack: Stack, claude: SimulatedClaude, label: str, streams: int, **environment: str
) -> tuple[dict[str, Any], list[float]]:
    """What is published of a run, and how late each first text was read (ms)."""
    _configure(claude)
    with pinned(0):
        contender = ClaudeJobs(stack, f"streams-{label}", streams, kind=KIND, **environment)
    with _on_another_core(claude.pid), _on_another_core(os.getpid()):
        contender.clear()
        contender.hold(streams, stream=True)
        cpu, theirs = cpu_seconds(contender.worker.pid), cpu_seconds(claude.pid)
        started, own = time.monotonic(), time.process_time()
        contender.release()
        with readers(job_ids()) as heard:
            wait_for(
                lambda: contender.done() >= streams,
                seconds=SECONDS,
                what=f"{streams} streams",
                every=0.25,
            )
        seconds = time.monotonic() - started
        cpu = cpu_seconds(contender.worker.pid) - cpu
        theirs = cpu_seconds(claude.pid) - theirs
        own = time.process_time() - own
    contender.worker.stop()
    _as_before(claude)
    began = sorted(entry.first_text_at for entry in claude.ledger() if entry.first_text_at)
    with transaction() as connection:
        calls = connection.execute(_CALLS).all()
    chunks = [call.output_tokens / CHUNK_TOKENS for call in calls]
    took = [float(call.seconds) for call in calls]
    # Nothing is sent after the last chunk's pause, nor before the first one.
    rates = [(count - 1) / s for count, s in zip(chunks, took, strict=True) if s]
    spans = [(float(c.ended) - s, float(c.ended)) for c, s in zip(calls, took, strict=True)]
    run = {
        "streams": streams,
        "began_within": began[-1] - began[0],
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
        "reader_core": own / seconds,
    }
    return run, delays(heard, claude)


def _floor(stack: Stack, claude: SimulatedClaude, number: int, streams: int) -> list[float]:
    """How late each first text is read (ms) where its reader is the thread that it wakes."""
    _configure(claude)
    log = stack.logs / f"streams-floor-{number}.log"
    with pinned(0):
        command = ["python", "-m", "benchmarks.plain.streams", KIND, str(streams)]
        floor = Service(command, stack.environment, log).start()
    with floor, _on_another_core(claude.pid):
        wait_for(lambda: not floor.running, seconds=SECONDS, what="the floor", every=0.25)
    _as_before(claude)
    try:
        heard: dict[str, float] = json.loads(floor.log_text())
    except ValueError:
        raise BenchmarkError(f"the floor of streams: {floor.log_tail(1)}") from None
    return after_first_text(heard, claude)


def _one_at_a_time(stack: Stack, claude: SimulatedClaude) -> list[float]:
    """From Claude's first text to its reader having it (ms), nothing else going on."""
    claude.reset()
    claude.configure(latency=0.5, tokens_per_second=200.0, chunk_tokens=CHUNK_TOKENS)
    contender = ClaudeJobs(stack, "streams-alone", 10, kind=KIND)
    contender.clear()
    heard: dict[UUID, float] = {}
    for values in inputs(ALONE, KIND):
        contender.send(values, "reader", stream=True)
        (job,) = job_ids() - heard.keys()
        with readers({job}) as own:
            wait_for(lambda own=own: bool(own), seconds=SECONDS, what="a stream", every=0.05)
        heard |= own
    wait_for(lambda: contender.done() >= ALONE, seconds=SECONDS, what="the rest", every=0.25)
    contender.worker.stop()
    _as_before(claude)
    return delays(heard, claude)


def _configure(claude: SimulatedClaude) -> None:
    claude.configure(
        latency=LATENCY,
        tokens_per_second=float(CHUNKS_PER_SECOND * CHUNK_TOKENS),
        chunk_tokens=CHUNK_TOKENS,
    )
    claude.reset()


def _as_before(claude: SimulatedClaude) -> None:
    claude.configure(latency=0.0, tokens_per_second=None, chunk_tokens=8)


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
