"""How fast a file of jobs is enqueued, by the real command – no worker runs meanwhile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from benchmarks.contenders import KIND, inputs, plain_environment
from benchmarks.measure import BenchmarkError, median
from benchmarks.plain.models import Base
from sandbox.service import PROJECT
from sandbox.stack import Stack
from worker.storage.engine import get_engine, transaction

SECONDS = 120
_QUEUE = "plain-enqueue"
_REPORTED = re.compile(r"([\d,]+) jobs enqueued in ([\d.]+) s \(([\d,]+)/s\)")


def measure(stack: Stack, *, jobs: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Both sides from the same file, in turn, each in a process of its own."""
    file = folder / "jobs.jsonl"
    file.write_text("".join(json.dumps(values) + "\n" for values in inputs(jobs)))
    Base.metadata.create_all(get_engine())
    ours: list[dict[str, float]] = []
    plain: list[dict[str, float]] = []
    for _ in range(rounds):
        ours.append(_ours(stack, file, jobs))
        plain.append(_plain(stack, file, jobs))
    measured = {"claude-jobs": ours, "plain Celery": plain}
    rows = {
        name: {column: median([run[column] for run in runs]) for column in runs[0]}
        for name, runs in measured.items()
    }
    return {"jobs": jobs, "rounds": rounds, "contenders": rows, "raw": measured}


def _ours(stack: Stack, file: Path, jobs: int) -> dict[str, float]:
    command = Path(sys.executable).with_name("claude-jobs")
    with transaction() as connection:
        connection.exec_driver_sql("TRUNCATE jobs, results, usage CASCADE")
    seconds, said = _timed([str(command), "enqueue-file", KIND, str(file)], stack.environment)
    reported = _REPORTED.search(said)
    with transaction() as connection:
        rows = connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()
    if rows != jobs or reported is None:
        raise BenchmarkError(f"enqueue-file left {rows} rows and said: {said}")
    own = float(reported[3].replace(",", ""))
    return {"whole_command_per_second": jobs / seconds, "enqueueing_per_second": own}


def _plain(stack: Stack, file: Path, jobs: int) -> dict[str, float]:
    environment = plain_environment(stack.environment)
    command = [sys.executable, "-m", "benchmarks.plain.produce", str(file), _QUEUE]
    seconds, said = _timed(command, environment)
    with redis.Redis.from_url(environment["PLAIN_BROKER_URL"]) as client:
        messages = client.llen(_QUEUE)
        client.delete(_QUEUE)
    if messages != jobs:
        raise BenchmarkError(f"send_task left {messages} messages and said: {said}")
    return {
        "whole_command_per_second": jobs / seconds,
        "enqueueing_per_second": jobs / float(said),
    }


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, str]:
    """The seconds from start to exit, and what was printed."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    started = time.monotonic()
    ended = subprocess.run(
        command,
        cwd=PROJECT,
        env=inherited | dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    seconds = time.monotonic() - started
    said = ended.stdout + ended.stderr
    if ended.returncode:
        raise BenchmarkError(f"{command[:3]} exited with {ended.returncode}: {said}")
    return seconds, said
