"""Every row of the taxonomy, met by a real worker: how the job ends, and what is in the books."""

from __future__ import annotations

import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.ledger import LedgerEntry
from sandbox.claude.tokens import Usage
from sandbox.service import PROJECT
from sandbox.stack import Stack
from tests.acceptance.taxonomy import (
    IN_TWO_SECONDS,
    OK,
    ROWS,
    SPEND_LIMITS,
    Call,
    Row,
    prompt_versions,
)
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.claude import failures
from worker.storage.models import OUTCOMES

_INSERT = """
INSERT INTO jobs (id, user_id, task, input, prompt_version, model, max_attempts, stream)
SELECT * FROM jsonb_to_recordset(%(jobs)s::jsonb) AS job (
    id uuid, user_id text, task text, input jsonb, prompt_version text, model text,
    max_attempts int, stream bool)
"""


@dataclass(frozen=True)
class Ending:
    """How one job ended: its row, its usage rows, and Claude's own account of the same calls."""

    job: dict[str, Any]
    calls: list[dict[str, Any]]
    entries: list[LedgerEntry]


@dataclass(frozen=True)
class Run:
    """The whole table, run once."""

    endings: dict[str, Ending]
    date: float


@pytest.fixture(scope="module")
def system(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A fresh system whose prompts have the versions that the table needs."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts"
    shutil.copytree(PROJECT / "prompts", prompts)
    for version, text in prompt_versions().items():
        (prompts / "summarize_text" / f"{version}.toml").write_text(text)
    environment = stack.environment | {
        "DATABASE_URL": stack.postgres.create_database("taxonomy", template="migrated"),
        "REDIS_URL": stack.valkey.url.removesuffix("/0") + "/1022",
        "CLAUDE_JOBS_CONCURRENCY": "150",
        "CLAUDE_JOBS_POLL_SECONDS": "0.1",
        "CLAUDE_JOBS_LEASE_SECONDS": "2",
        "CLAUDE_JOBS_STALL_SECONDS": "1",
        "CLAUDE_JOBS_PROMPTS_DIR": str(prompts),
    }
    system = System(stack, environment)
    yield system
    system.close()
    stack.postgres.drop_database("taxonomy")


@pytest.fixture(scope="module", autouse=True)
def fleet(system: System) -> Iterator[Fleet]:
    """One worker for all of it."""
    workers = Fleet(system)
    workers.start(app="tests.acceptance.quick")
    yield workers
    workers.stop()


@pytest.fixture(scope="module")
def run_of(system: System, fleet: Fleet) -> Callable[[str], Run]:
    """The run of one way of receiving replies, made when it is first asked for.

    Once only: it closes a model's class for a day. A fixture with parameters would be made anew
    whenever the tests of the other way came in between, as they do when test processes share work.
    """
    return functools.cache(lambda way: run_all(system, way))


def run_all(system: System, way: str) -> Run:
    """All rows at once: a job each, and for each the faults that strike it alone."""
    system.claude.reset()
    system.claude.configure(latency=0.0)
    date = math.ceil(time.time()) + 2
    header = format_datetime(datetime.fromtimestamp(date, UTC), usegmt=True)
    for row in ROWS:
        faults = json.dumps(row.faults).replace(IN_TWO_SECONDS, header)
        system.claude.faults(*({"match": row.marker} | fault for fault in json.loads(faults)))
    rows = [row for row in ROWS if row.only in (None, way)]
    jobs = {row.name: uuid4() for row in rows}
    enqueue(system, jobs, rows, stream=way == "streamed")
    system.all_end(seconds=60)
    requests = system.requests()
    return Run(
        {name: ending(system, job_id, requests.get(name, [])) for name, job_id in jobs.items()},
        date,
    )


def enqueue(system: System, ids: dict[str, Any], rows: list[Row], *, stream: bool = False) -> None:
    """Insert a job a row; its `user_id`, the tag of its calls, is the row's name."""
    jobs = [
        {
            "id": str(ids[row.name]),
            "user_id": row.name,
            "task": row.task,
            "input": row.input,
            "prompt_version": row.version,
            "model": row.model,
            "max_attempts": row.max_attempts,
            "stream": stream,
        }
        for row in rows
    ]
    system.sql(_INSERT, jobs=json.dumps(jobs))


def ending(system: System, job_id: UUID, entries: list[LedgerEntry]) -> Ending:
    """What is known of a job."""
    (job,) = system.sql(
        """SELECT jobs.*, results.output, results.warnings, results.model AS answered_by
           FROM jobs LEFT JOIN results ON results.job_id = jobs.id WHERE jobs.id = %(id)s""",
        id=job_id,
    )
    calls = system.sql("SELECT * FROM usage WHERE job_id = %(id)s ORDER BY id", id=job_id)
    return Ending(job, calls, entries)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("way", ["plain", "streamed"])
def test_row(run_of: Callable[[str], Run], row: Row, way: str) -> None:
    run = run_of(way)
    if row.name not in run.endings:
        return  # what only the other way of receiving a reply can meet
    ended = run.endings[row.name]

    assert_ended(row, ended)
    assert [call["outcome"] for call in ended.calls] == [call.outcome for call in row.calls]
    assert len(ended.entries) == len(ended.calls), "a request without a usage row, or the reverse"
    for expected, call, entry in zip(row.calls, ended.calls, ended.entries, strict=True):
        assert_booked(expected, call, entry)
    if row.models:
        assert [call["model"] for call in ended.calls] == row.models
    for earlier, later in pairwise(ended.entries):
        assert later.received_at - earlier.received_at >= row.wait
    if IN_TWO_SECONDS in json.dumps(row.faults):
        assert ended.entries[1].received_at >= run.date


def assert_ended(row: Row, ended: Ending) -> None:
    """The job's state, attempts, error and output are the row's."""
    job, last = ended.job, ended.calls[-1]
    assert (job["state"], job["attempt"], job["rescues"]) == (row.state, row.attempts, 0)
    if row.state == "succeeded":
        assert job["error"] is None
        assert job["output"]
        assert bool(job["warnings"]) == row.warned
        assert job["answered_by"] == last["model"]
        return
    assert job["output"] is None
    assert job["error"]["type"] == row.error
    assert job["error"]["attempt"] == row.attempts
    assert job["error"].get("request_id") == last["request_id"]
    assert row.says in job["error"]["message"]


def assert_booked(expected: Call, call: dict[str, Any], entry: LedgerEntry) -> None:
    """The usage row says what the ledger says, as far as anybody could know it."""
    assert (call["complete"], entry.billed) == (expected.complete, expected.billed)
    if call["request_id"] is not None or call["outcome"] == "api_error":
        assert call["request_id"] == entry.request_id
    booked = Usage(**{name: call[name] for name in Usage.__slots__})
    if expected.complete:
        assert call["request_id"] is not None
        assert (booked, call["cost_usd"]) == (entry.usage, entry.cost_usd)
    elif call["cost_usd"] is None:
        assert booked == Usage()
    else:
        # A stream that was cut: the input is known from its start, the output only at its end.
        assert replace(booked, output_tokens=0) == replace(entry.usage, output_tokens=0)
        assert booked.output_tokens <= entry.usage.output_tokens
        assert 0 < call["cost_usd"] <= entry.cost_usd
    assert call["finished_at"] is not None


def test_the_table_leaves_nothing_out() -> None:
    """Outcomes that come of a crash, a cancel or a shutdown belong to other tests."""
    met = {call.outcome for row in ROWS for call in row.calls}
    assert met == set(OUTCOMES) - {"in_flight", "interrupted", "lost"}
    statuses = {fault.get("status") for row in ROWS for fault in row.faults}
    assert statuses >= failures._TRANSIENT_STATUSES
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", SPEND_LIMITS)
def test_a_spend_limit_pauses_everything_and_is_not_tried_again(
    system: System, claude: SimulatedClaude, name: str
) -> None:
    row = Row(name, [SPEND_LIMITS[name]], [])
    claude.faults({"match": row.marker} | SPEND_LIMITS[name])
    job_id = uuid4()
    enqueue(system, {name: job_id}, [row])

    system.eventually(lambda: bool(system.sql("SELECT 1 FROM pauses")), "nothing was paused")
    system.eventually(lambda: system.count("state = 'queued'") == 1, system.unfinished)
    wait_for_heartbeat(system)
    ended = ending(system, job_id, claude.ledger())
    assert (ended.job["state"], ended.job["attempt"]) == ("queued", 0)
    assert ended.job["error"]["type"] == "spend_limit"
    (pause,) = system.sql("SELECT * FROM pauses")
    assert (pause["scope"], pause["paused_by"]) == ("all", "claude-jobs")
    assert "spend limit" in pause["reason"]
    assert len(ended.entries) == len(ended.calls) == 1

    system.sql("DELETE FROM pauses")
    system.all_end(seconds=20)

    ended = ending(system, job_id, claude.ledger())
    assert (ended.job["state"], ended.job["attempt"]) == ("succeeded", 1)
    first = Call("rate_limited" if name.startswith("429") else "api_error")
    for expected, call, entry in zip([first, OK], ended.calls, ended.entries, strict=True):
        assert call["outcome"] == expected.outcome
        assert_booked(expected, call, entry)


def wait_for_heartbeat(system: System) -> None:
    """Until the worker has reported itself: it has looked for work several times in between."""
    (seen,) = system.sql("SELECT max(seen_at) AS at FROM workers")
    system.eventually(
        lambda: system.sql("SELECT max(seen_at) AS at FROM workers") != [seen],
        "the worker does not report itself",
    )
