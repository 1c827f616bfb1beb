"""A system to be attacked: its database and broker, its jobs, and what the ledger says of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
import redis
from psycopg.rows import dict_row

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.ledger import LedgerEntry
from sandbox.process import wait_until
from sandbox.stack import Stack

FINAL = ("succeeded", "failed", "cancelled")

_INSERT = """
INSERT INTO jobs (id, user_id, task, input, max_attempts)
SELECT id, id::text, 'summarize_text', jsonb_build_object(
    'text', text, 'max_words', 50, 'audience', 'everybody'), %(max_attempts)s
FROM unnest(%(ids)s::uuid[], %(texts)s::text[]) AS new (id, text)
"""


class System:
    """Jobs go in by SQL, each with its own id as `user_id`: that is the tag of its calls."""

    def __init__(self, stack: Stack, environment: Mapping[str, str]) -> None:
        assert stack.claude is not None
        self.stack = stack
        self.claude: SimulatedClaude = stack.claude
        self.environment = dict(environment)
        self._connection: psycopg.Connection[dict[str, Any]] | None = None

    # Postgres, over one connection: to build one costs more than ten questions.

    def sql(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """Run a statement and return its rows; Postgres may have been restarted since the last."""
        if self._connection is not None:
            try:
                self._connection.execute("SELECT 1")
            except psycopg.OperationalError:
                self.close()
        if self._connection is None:
            self._connection = psycopg.connect(
                self.environment["DATABASE_URL"], autocommit=True, row_factory=dict_row
            )
        cursor = self._connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Close the connection; the next statement opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def count(self, condition: str, **values: Any) -> int:
        """How many jobs fulfil an SQL condition."""
        (row,) = self.sql(f"SELECT count(*) FROM jobs WHERE {condition}", **values)
        return int(row["count"])

    def enqueue(self, number: int, text: str = "", *, max_attempts: int = 5) -> list[UUID]:
        """Insert jobs whose text begins with `text`."""
        ids = [uuid4() for _ in range(number)]
        texts = [f"{text} The fox and the dog of {job_id}." for job_id in ids]
        self.sql(_INSERT, ids=ids, texts=texts, max_attempts=max_attempts)
        return ids

    def jobs(self) -> list[dict[str, Any]]:
        """Every job, with its numbers of results and of usage rows."""
        return self.sql("""
            SELECT jobs.*,
                   (SELECT count(*) FROM results WHERE job_id = jobs.id) AS results,
                   (SELECT coalesce(array_agg(outcome ORDER BY id), '{}')
                    FROM usage WHERE job_id = jobs.id) AS outcomes,
                   (SELECT coalesce(array_agg(request_id), '{}')
                    FROM usage WHERE job_id = jobs.id) AS request_ids
            FROM jobs ORDER BY created_at
        """)

    # The broker.

    def broker(self) -> redis.Redis:
        """A client of the system's own numbered database."""
        return redis.Redis.from_url(self.environment["REDIS_URL"])

    # Waiting.

    def eventually(
        self,
        condition: Callable[[], bool],
        failure: str | Callable[[], str],
        seconds: float = 60,
        *,
        every: float = 0.1,
    ) -> None:
        """Wait for a condition; a `failure` that is a function is asked at the end."""
        deadline = time.monotonic() + seconds
        try:
            wait_until(_every(every, condition), seconds=seconds, failure="")
        except Exception as error:
            if time.monotonic() < deadline:
                raise
            raise AssertionError(failure() if callable(failure) else failure) from error

    def all_final(self) -> bool:
        """Whether every job has ended."""
        return self.count("finished_at IS NULL") == 0

    def all_end(self, seconds: float = 60) -> None:
        """Wait until every job has ended."""
        self.eventually(self.all_final, self.unfinished, seconds)

    def running(self, number: int, seconds: float = 30) -> None:
        """Wait until so many jobs run and their calls have reached Claude."""
        self.eventually(
            lambda: (
                self.claude.stats()["in_flight"] == number
                and self.count("state = 'running'") == number
            ),
            lambda: f"not {number} running: {self.summary()}, {self.claude.stats()}",
            seconds,
        )

    def unfinished(self) -> str:
        """What has not ended, for the message of a test that failed."""
        rows = self.sql("""
            SELECT id, state, attempt, rescues, now() AS now, run_at, dispatched_at, started_at,
                   lease_expires_at, worker, cancel_requested, error ->> 'type' AS error
            FROM jobs WHERE finished_at IS NULL LIMIT 5""")
        return "\n".join([f"not all ended: {self.summary()}", *map(str, rows)])

    def summary(self) -> dict[str, int]:
        """How many jobs are in which state."""
        return {
            r["state"]: r["n"] for r in self.sql("SELECT state, count(*) n FROM jobs GROUP BY 1")
        }

    # The oracle.

    def requests(self) -> dict[str, list[LedgerEntry]]:
        """What Claude received, by job; a request that was cut off unread has no tag."""
        received: dict[str, list[LedgerEntry]] = {}
        for entry in self.claude.ledger():
            if entry.tag is not None:
                received.setdefault(entry.tag, []).append(entry)
        return received

    def assert_accounted_for(self) -> None:
        """Every job ended once, and no request is unknown to the usage table."""
        received = self.requests()
        jobs = self.jobs()
        assert set(received) <= {str(job["id"]) for job in jobs}
        for job in jobs:
            entries = received.get(str(job["id"]), [])
            assert job["state"] in FINAL, job
            assert job["results"] == (job["state"] == "succeeded"), job
            assert "in_flight" not in job["outcomes"], job
            assert job["outcomes"].count("ok") == job["results"], job
            assert len(entries) <= len(job["outcomes"]), (job, entries)
            # A row that knows its request names one that was made; those that do not are enough
            # for the rest.
            known = {request_id for request_id in job["request_ids"] if request_id}
            assert known <= {entry.request_id for entry in entries}, (job, entries)
            billed = [entry for entry in entries if entry.billed]
            unknown = [entry for entry in billed if entry.request_id not in known]
            assert len(unknown) <= len(job["outcomes"]) - len(known), (job, entries)

    def assert_one_call_each(self, jobs: Sequence[UUID] | None = None) -> None:
        """Each job succeeded with a single request."""
        calls = Counter({tag: len(entries) for tag, entries in self.requests().items()})
        for job in self.jobs():
            if jobs is None or job["id"] in jobs:
                assert job["state"] == "succeeded", job
                assert calls[str(job["id"])] == 1, job


def _every(seconds: float, condition: Callable[[], bool]) -> Callable[[], bool]:
    """Ask `condition` only so often: two cores are shared with what is being watched."""
    due = 0.0

    def paced() -> bool:
        nonlocal due
        if time.monotonic() < due:
            return False
        due = time.monotonic() + seconds
        return condition()

    return paced
