"""`make demo`: the main job, end to end, on servers that live as long as the demo."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

from rich.console import Console
from rich.live import Live
from rich.table import Table
from sqlalchemy import RowMapping, text

from sandbox.account import SandboxError
from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from sandbox.process import wait_until
from sandbox.samples import load_samples, sampled
from sandbox.stack import DATA, Stack, servers, use_here
from worker.cli.bulk import print_summary
from worker.cli.output import styled_state, table
from worker.engine.registry import load_registry
from worker.errors import ClaudeJobsError
from worker.storage import read
from worker.storage.engine import transaction

console = Console(highlight=False, soft_wrap=True)

JOBS_PER_TASK = 10
SECONDS = 120

#: What goes wrong on purpose. Each is met by a retry – but for the last, which nothing can mend.
FAULTS = (
    Fault(status=529, times=3),
    Fault(status=429, headers={"retry-after": "1"}, times=2),
    Fault(content="missing_field", times=2),
    Fault(cut=True, at="headers", times=1),
    Fault(match="UNPAID INVOICE 4711", stop_reason="refusal", content="empty", times=None),
)


@dataclass
class Expectation:
    """Which jobs must succeed, and which one must fail."""

    succeed: list[UUID]
    fail: UUID

    @property
    def all(self) -> list[UUID]:
        return [*self.succeed, self.fail]


def main() -> int:
    """Run the demo; returns 0 only if every job ended as it should."""
    folder = DATA / "demo"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        console.print("starting Postgres, Valkey, the simulated Claude, a worker and Flower …")
        claude = SimulatedClaude(latency=0.6, tokens_per_second=400, seed=1)
        with servers(folder, claude=claude) as stack:
            use_here(stack.environment)
            stack.start_worker(CLAUDE_JOBS_CONCURRENCY="16")
            stack.start_flower()
            claude.faults(*FAULTS)
            expected = _enqueue()
            _show_progress(expected.all)
            print()
            print_summary(expected.all)
            _show_results()
            return _verdict(stack, expected)
    except (SandboxError, ClaudeJobsError) as error:
        sys.stderr.write(f"claude-jobs: {error}\n")
        return 1


def _enqueue() -> Expectation:
    registry = load_registry()
    succeed = [
        registry[name].enqueue(**values, user_id=f"user-{index % 3}").id
        for name in sampled(registry)
        for index, values in enumerate(load_samples(name)[:JOBS_PER_TASK])
    ]
    refused = registry["classify_ticket"].enqueue(
        subject="UNPAID INVOICE 4711",
        body="This one is refused by Claude, on purpose.",
        categories=["billing", "other"],
        user_id="user-0",
    )
    console.print(f"{len(succeed) + 1} jobs enqueued: one INSERT each, no broker involved")
    return Expectation(succeed, refused.id)


def _show_progress(ids: list[UUID]) -> None:
    deadline = time.monotonic() + SECONDS
    with _live() as live:
        while time.monotonic() < deadline:
            states = _states(ids)
            live.update(_progress(states))
            if not {"queued", "dispatched", "running"} & {state for _, state in states}:
                return
            time.sleep(0.1)


@contextmanager
def _live() -> Iterator[Live]:
    with Live(console=console, refresh_per_second=10) as live:
        yield live


def _states(ids: list[UUID]) -> Counter[tuple[str, str]]:
    counted = text("SELECT task, state, count(*) FROM jobs WHERE id = ANY(:ids) GROUP BY 1, 2")
    with transaction() as connection:
        return Counter({(r[0], r[1]): r[2] for r in connection.execute(counted, {"ids": ids})})


def _progress(states: Counter[tuple[str, str]]) -> Table:
    columns = ("queued", "dispatched", "running", "succeeded", "failed")
    shown = table("task", *(f"{column}>" for column in columns))
    for task in sorted({task for task, _ in states}):
        counts = (states[task, column] for column in columns)
        shown.add_row(task, *(str(count) if count else "·" for count in counts))
    return shown


_NEWEST = text("""
SELECT DISTINCT ON (results.task) results.task, results.prompt_version, results.output,
       jobs.attempt
FROM results JOIN jobs ON jobs.id = results.job_id ORDER BY results.task, results.created_at DESC
""")


def _show_results() -> None:
    with transaction() as connection:
        rows = connection.execute(_NEWEST).mappings().all()
    shown = table("results: prompt", "attempts>", "output")
    room = console.width - 36
    for row in rows:
        output = json.dumps(row["output"], ensure_ascii=False)
        version = f"{row['task']}/{row['prompt_version']}"
        shown.add_row(version, str(row["attempt"]), output[:room])
    console.print()
    console.print(shown)


def _verdict(stack: Stack, expected: Expectation) -> int:
    wrong = []
    with transaction() as connection:
        ended = {job: read.outcome(connection, job) for job in expected.all}
    for job, row in ended.items():
        wanted = "failed" if job == expected.fail else "succeeded"
        if row["state"] != wanted:
            wrong.append(f"job {job} is {styled_state(row['state'])}: {_reason(row)}")
    if _reason(ended[expected.fail]) != "refused":
        wrong.append(f"job {expected.fail} was to be refused by Claude")
    due = Counter(SUCCESS=len(expected.succeed), FAILURE=1)
    with suppress(SandboxError):  # what is missing then is said below
        wait_until(lambda: _shown(stack) == due, seconds=10, failure="Flower is behind")
    shown = _shown(stack)
    console.print(
        f"\nFlower {stack.flower_url} (login {stack.environment['FLOWER_BASIC_AUTH']}) saw "
        f"{shown['SUCCESS']} SUCCESS and {shown['FAILURE']} FAILURE; it ends with this demo, "
        "`make up` keeps it running"
    )
    if shown != due:
        wrong.append(f"Flower shows {dict(shown)}")
    for line in wrong:
        console.print(f"[red]{line}[/]")
    if not wrong:
        struck = sum(fault.times or 0 for fault in FAULTS)
        console.print(
            f"[green]{len(expected.succeed)} jobs succeeded through {struck} injected faults, and "
            "the one that Claude refuses failed with its reason[/]"
        )
    return 1 if wrong else 0


def _shown(stack: Stack) -> Counter[str]:
    """How many tasks Flower shows in each state; a worker's events reach it after a moment."""
    return Counter(task["state"] for task in json.loads(stack.flower("/api/tasks")).values())


def _reason(row: RowMapping) -> str | None:
    return (row["error"] or {}).get("type")


if __name__ == "__main__":
    sys.exit(main())
