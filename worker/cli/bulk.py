"""Thousands of jobs at a time: enqueue them, wait for them, sum them up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, BinaryIO
from uuid import UUID

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from worker.cli.output import err, money, out, styled_state, table
from worker.engine.registry import AnyTask
from worker.errors import ClaudeJobsError, InvalidInput
from worker.storage import read
from worker.storage.engine import transaction
from worker.storage.enqueue import NewJob
from worker.storage.models import TERMINAL_STATES

#: Jobs per transaction: a failure half-way leaves whole batches, never half of one.
_BATCH = 1000


@dataclass
class Enqueued:
    """What became of a file's lines; `rejected` holds line numbers (from 1) and reasons."""

    ids: list[UUID] = field(default_factory=list)
    rejected: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0


def enqueue_lines(
    task: AnyTask, lines: BinaryIO, options: dict[str, Any], idempotency_prefix: str | None
) -> Enqueued:
    """Insert a job for every line that fits the task, in batches."""
    done = Enqueued()
    started = time.monotonic()
    with _progress() as progress, lines:
        bar = progress.add_task("enqueueing", total=_size(lines))

        def jobs() -> Iterator[NewJob]:
            for number, line in enumerate(lines, start=1):
                progress.advance(bar, len(line))
                if not line.strip():
                    continue
                try:
                    job = task.new_job(_parse(line), **options)
                except ClaudeJobsError as error:
                    done.rejected.append((number, str(error)))
                    continue
                key = None if idempotency_prefix is None else f"{idempotency_prefix}:{number}"
                yield replace(job, idempotency_key=key)

        for batch in _batches(jobs()):
            done.ids.extend(job.id for job in task.enqueue_many(batch))
    done.seconds = time.monotonic() - started
    return done


def wait_for_all(ids: Sequence[UUID], timeout: float | None) -> bool:
    """Show progress until every job has ended, or `timeout` seconds are over.

    Returns whether all succeeded.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with _progress() as progress:
        bar = progress.add_task("running", total=len(ids))
        while True:
            with transaction() as connection:
                states = read.count_states(connection, ids)
            ended = sum(states.get(state, 0) for state in TERMINAL_STATES)
            progress.update(bar, completed=ended, description=f"{states.get('running', 0)} running")
            if ended >= len(ids):
                return states.get("succeeded", 0) == len(ids)
            if deadline is not None and time.monotonic() > deadline:
                err.print(f"{len(ids) - ended} jobs have not ended after {timeout:g} s; they go on")
                return False
            time.sleep(0.25)


def print_summary(ids: Sequence[UUID]) -> None:
    """A table of outcomes, tokens and cost by task."""
    with transaction() as connection:
        rows = read.summarize(connection, ids)
    listed = table("task", "state", "error", "jobs>", "calls>", "input>", "output>", "cost>")
    for row in rows:
        listed.add_row(
            escape(row["task"]),
            styled_state(row["state"]),
            escape(row["error"]),
            f"{row['jobs']:,}",
            f"{row['calls']:,}",
            f"{row['input_tokens']:,}",
            f"{row['output_tokens']:,}",
            money(row["cost_usd"]),
        )
    out.print(listed)
    total = sum((row["cost_usd"] for row in rows), Decimal(0))
    unpriced = sum(row["unpriced"] for row in rows)
    note = f", without {unpriced} calls whose model has no known price" if unpriced else ""
    out.print(f"total {money(total)}{note}")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidInput("not a JSON object")
    return values


def _batches(jobs: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    batch: list[NewJob] = []
    for job in jobs:
        batch.append(job)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _size(lines: BinaryIO) -> int | None:
    try:
        return os.fstat(lines.fileno()).st_size or None
    except OSError:
        return None


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )
