"""What a workload costs by the simulated Claude's ledger: ours, the article's way, plain calls.

An hour of jobs in a minute: everything that lasts is as many times shorter – the windows of both
result caches, Claude's prompt cache, batches, the time of a reply –, so that what would have
expired within the hour does. What our `usage` table says was saved is held against the ledgers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import text

from benchmarks import saving_peers
from benchmarks.contenders import count, redis_database, truncate
from benchmarks.measure import wait_for
from benchmarks.saving_books import books
from benchmarks.saving_report import ARTICLE, JUDGED, OURS, PLAIN
from benchmarks.saving_workload import Arrival, Workload, arrivals, library, write_prompts
from sandbox.claude.client import SimulatedClaude
from sandbox.claude.config import Config
from sandbox.service import Service
from sandbox.stack import Stack
from worker.engine.prepare import Preparer
from worker.engine.registry import Registry, load_registry
from worker.settings import Settings
from worker.storage.engine import transaction

PROCESSES, SLOTS = 2, 200
#: Seconds of the hour. For how long results are served again: as the tasks are shipped.
WINDOW = 600.0
#: A reply begins after so long, and then comes at this speed (tokens a second).
LATENCY, TOKENS_PER_SECOND = 2.0, 80.0
#: How long a batch takes: most end within an hour, says Claude's documentation.
BATCH_SECONDS = 1800.0
BATCH_WAIT_MINUTES, BATCH_POLL_SECONDS = 15.0, 60.0

#: What is published: the workload that is judged first, then what changes with its parameters.
CASES = {
    JUDGED: Workload(),
    "no repeats": Workload(repeats=0.0),
    "40 % repeats": Workload(repeats=0.4),
    "nothing deferrable": Workload(deferrable=0.0),
    "one example in each prompt": Workload(examples=1),
    "no examples": Workload(examples=0),
}


def measure(
    stack: Stack,
    claude: SimulatedClaude,
    folder: Path,
    *,
    cases: Sequence[str],
    jobs: int,
    speed: float,
) -> dict[str, Any]:
    """Each of `CASES` that is named, by all three, in hours that are `speed` times as fast."""
    registry = load_registry()
    preparer = Preparer(registry)
    measured = {
        name: _Case(
            stack,
            claude,
            folder / "prompts",
            registry,
            preparer,
            replace(CASES[name], jobs=jobs),
            speed,
        ).measure()
        for name in cases
    }
    return {"speed": speed, "window": WINDOW, "cases": measured}


class _Case:
    """One workload."""

    def __init__(
        self,
        stack: Stack,
        claude: SimulatedClaude,
        prompts: Path,
        registry: Registry,
        preparer: Preparer,
        workload: Workload,
        speed: float,
    ) -> None:
        self._stack, self._claude, self._prompts = stack, claude, prompts
        self._registry, self._preparer = registry, preparer
        self._workload, self._speed = workload, speed
        self._jobs = arrivals(workload)

    def measure(self) -> dict[str, Any]:
        """Dollars and calls of each, and where ours were saved."""
        self._claude.configure(latency=0.0, tokens_per_second=None)
        url = self._claude.url
        write_prompts(self._prompts, self._preparer, self._registry, url, self._workload.examples)
        wanted = saving_peers.requests(
            self._jobs, self._registry, self._preparer, library(self._prompts)
        )
        plain = self._billed(lambda: saving_peers.plain(wanted, url))
        article = self._billed(
            lambda: saving_peers.article(
                wanted,
                self._jobs,
                url,
                redis_database(self._stack.environment, 2),
                window=WINDOW,
                speed=self._speed,
            )
        )
        ours = self._billed(self._ours)
        ours["row"] |= {"saved": books()}
        contenders = {PLAIN: plain, ARTICLE: article, OURS: ours}
        return {
            "workload": asdict(self._workload),
            "distinct": len({_identity(job) for job in self._jobs}),
            "contenders": {
                name: made["row"] | {"same": _same(made["outputs"], plain["outputs"])}
                for name, made in contenders.items()
            },
        }

    def _billed(self, run: Callable[[], list[Any]]) -> dict[str, Any]:
        """What `run` makes the simulated Claude bill."""
        self._claude.reset()
        self._claude.configure(**_simulated(self._speed))
        outputs = run()
        entries = [entry for entry in self._claude.ledger() if entry.billed]
        usages = [entry.usage for entry in entries]
        row = {
            "usd": str(sum((entry.cost_usd for entry in entries), Decimal(0))),
            "calls": len(entries),
            "input_tokens": sum(usage.input_tokens for usage in usages),
            "cache_read_tokens": sum(usage.cache_read_tokens for usage in usages),
            "cache_write_tokens": sum(
                usage.cache_write_5m_tokens + usage.cache_write_1h_tokens for usage in usages
            ),
            "output_tokens": sum(usage.output_tokens for usage in usages),
        }
        return {"row": row, "outputs": outputs}

    def _ours(self) -> list[Any]:
        truncate("jobs, results, usage")
        with redis.Redis.from_url(self._stack.environment["REDIS_URL"]) as client:
            for key in client.scan_iter(match="claude-jobs:warm:*"):
                client.delete(key)
        environment = _environment(self._prompts, self._speed)
        workers = [
            self._stack.start_worker(f"saving-{number}", "benchmarks.saving_app", **environment)
            for number in range(PROCESSES)
        ]
        try:
            ids = self._enqueue()
            wait_for(
                lambda: not count("SELECT count(*) FROM jobs WHERE finished_at IS NULL"),
                seconds=600,
                what=f"saving: {len(ids)} jobs",
                every=0.2,
            )
        finally:
            _stop(workers)
        with transaction() as connection:
            rows = connection.execute(text("SELECT job_id, output FROM results")).all()
        outputs = {row.job_id: row.output for row in rows}
        return [outputs.get(job_id) for job_id in ids]

    def _enqueue(self) -> list[Any]:
        """Each job when it comes; those that come together in one statement."""
        started, ids = time.monotonic(), []
        waiting = list(self._jobs)
        while waiting:
            due = (time.monotonic() - started) * self._speed
            now = [job for job in waiting if job.at <= due]
            waiting = waiting[len(now) :]
            for job_group in _by_task(now):
                task = self._registry[job_group[0].task]
                made = [
                    task.new_job(job.values, lane="batch" if job.deferrable else "interactive")
                    for job in job_group
                ]
                ids += [job.id for job in task.enqueue_many(made)]
            if waiting:
                time.sleep(max(0.0, started + waiting[0].at / self._speed - time.monotonic()))
        return ids


def _by_task(jobs: Sequence[Arrival]) -> list[list[Arrival]]:
    """Neighbours of one task together: the order stays."""
    groups: list[list[Arrival]] = []
    for job in jobs:
        if not groups or groups[-1][0].task != job.task:
            groups.append([])
        groups[-1].append(job)
    return groups


def _simulated(speed: float) -> dict[str, Any]:
    """The simulated Claude in a fast hour, as far as it can be told."""
    wanted = {
        "latency": LATENCY / speed,
        "tokens_per_second": TOKENS_PER_SECOND * speed,
        "cache_speed": speed,
        "batch_speed": speed,
        "batch_seconds": BATCH_SECONDS,
    }
    return {name: value for name, value in wanted.items() if name in Config.model_fields}


def _environment(prompts: Path, speed: float) -> dict[str, str]:
    """The worker in a fast hour: its settings as shipped, made as many times shorter."""
    wanted = {
        "cache_seconds": WINDOW / speed,
        "batch_wait_minutes": BATCH_WAIT_MINUTES / speed,
        "batch_poll_seconds": BATCH_POLL_SECONDS / speed,
        "poll_seconds": 0.2,
        "concurrency": SLOTS,
        "prompts_dir": prompts,
    }
    known = {name: value for name, value in wanted.items() if name in Settings.model_fields}
    environment = {f"CLAUDE_JOBS_{name.upper()}": str(value) for name, value in known.items()}
    return environment | {"BENCHMARK_SPEED": str(speed)}


def _stop(workers: Sequence[Service]) -> None:
    for worker in workers:
        worker.stop()


def _same(outputs: Sequence[Any], reference: Sequence[Any]) -> int:
    """How many outputs are equal to those of plain calls."""
    return sum(a == b for a, b in zip(outputs, reference, strict=True))


def _identity(job: Arrival) -> str:
    return f"{job.task} {sorted(job.values.items())}"
