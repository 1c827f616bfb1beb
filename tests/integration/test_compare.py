"""Comparing versions by real rows: the command, and the views that others read."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from tests.integration.command import Run
from worker.storage.engine import build_engine, transaction

PROMPT = "summarize_text"

_JOB = text("""
INSERT INTO jobs (id, task, input, state, user_id, finished_at)
VALUES (:job, 'summarize_text', '{}', cast(:state AS text), :user,
        CASE WHEN cast(:state AS text) IN ('succeeded', 'failed') THEN now() END)
""")
_CALL = text("""
INSERT INTO usage (job_id, task, user_id, attempt, call, outcome, model, prompt, prompt_version,
                   prompt_sha256, variant, failed_checks, output_tokens, latency_ms, cost_usd,
                   complete, created_at, finished_at)
VALUES (:job, 'summarize_text', :user, :attempt, :call, :outcome, 'm', 'summarize_text', :version,
        :sha256, :variant, :failed, :tokens, :latency, :cost, true,
        now() - make_interval(days => :days_ago), now())
""")


@pytest.fixture
def engine(environment: dict[str, str]) -> Iterator[Engine]:
    engine = build_engine(environment["DATABASE_URL"])
    yield engine
    engine.dispose()


class Jobs:
    """Writes jobs with their calls in one transaction."""

    def __init__(self, connection: Connection, seed: int = 1) -> None:
        self._connection = connection
        self._rng = random.Random(seed)  # noqa: S311 – no secret
        self._jobs: list[dict[str, Any]] = []
        self._calls: list[dict[str, Any]] = []

    def add(
        self, version: str, outcomes: Sequence[str] = ("ok",), state: str = "succeeded", **c: Any
    ) -> None:
        """A job whose calls end so; `attempts` says which attempt each belongs to."""
        job, attempts = uuid4(), c.pop("attempts", [1] * len(outcomes))
        user = c.pop("user", None)
        self._jobs.append({"job": job, "state": state, "user": user})
        length = self._rng.lognormvariate(0, 0.4)
        for number, (outcome, attempt) in enumerate(zip(outcomes, attempts, strict=True)):
            known = {
                "version": version,
                "sha256": f"{version[-1] * 12}aaaa",
                "variant": "release:1",
                "failed": [],
                "tokens": round(300 * length * c.get("longer", 1)),
                "latency": round(2000 * length),
                "cost": 0.002 * length * c.get("longer", 1),
                "days_ago": 0,
            }
            of_call = {key: value for key, value in c.items() if key != "longer"}
            call = number + 1 - attempts.index(attempt)
            keys = {"job": job, "user": user, "attempt": attempt, "call": call}
            self._calls.append(known | of_call | keys | {"outcome": outcome})

    def write(self) -> None:
        self._connection.execute(_JOB, self._jobs)
        self._connection.execute(_CALL, self._calls)


@pytest.fixture
def compared(engine: Engine) -> None:
    """1,000 jobs: version 1.1 is longer, fails a check, and is repaired for it."""
    with transaction(engine) as connection:
        jobs = Jobs(connection)
        for number in range(500):
            bad = number % 25 == 0
            jobs.add("1.0", ("invalid_output", "ok") if bad else ("ok",), user=f"a{number % 80}")
            jobs.add("1.1", longer=1.6, user=f"b{number % 80}") if number % 5 else jobs.add(
                "1.1",
                ("invalid_output", "ok"),
                failed=["has_dates"],
                longer=1.6,
                user=f"b{number % 80}",
            )
        jobs.write()


@pytest.mark.usefixtures("compared")
def test_what_differs_is_told_in_words(run: Run) -> None:
    found = run("prompts", "compare", PROMPT, "1.0", "1.1")

    assert found.code == 0, found
    lines = {line[:18].strip(): line for line in found.out.splitlines()}
    assert "side by side by release 1" in found.out
    assert "500" in lines["jobs"]
    assert "80" in lines["users"]
    assert lines["valid at once"].rstrip().endswith("B worse")
    assert "96.0 % (93.6 – 97.5)" in lines["valid at once"]
    assert "-16.0 points (" in lines["valid at once"]
    assert lines["repaired"].rstrip().endswith("B worse")
    assert lines["fails has_dates"].rstrip().endswith("B worse")
    assert lines["output tokens p50"].rstrip().endswith("B longer")
    assert lines["cost per job"].rstrip().endswith("B dearer")
    assert "no difference to be seen" in lines["refused"]
    assert "one or more of 10 lines" in found.err


@pytest.mark.usefixtures("compared")
def test_the_same_as_json_and_by_exact_content(run: Run) -> None:
    found = run("prompts", "compare", PROMPT, "1.0@0000000000000"[:16], "1.1", "--json")
    told = json.loads(found.out)

    assert told["side_by_side"] is True
    assert told["jobs"] == {"1.0@000000000000": 500, "1.1": 500}
    lines = {line["name"]: line for line in told["lines"]}
    assert lines["repaired"]["a"]["value"] == pytest.approx(0.04)
    assert lines["repaired"]["b"]["value"] == pytest.approx(0.2)
    cost = lines["cost per job"]
    assert cost["difference"]["low"] < cost["difference"]["value"] < cost["difference"]["high"]
    assert 1.5 < cost["difference"]["value"] < 2.1


def test_a_job_counts_whole_or_not_at_all(engine: Engine, run: Run) -> None:
    with transaction(engine) as connection:
        jobs = Jobs(connection)
        for version in ("1.0", "1.1"):
            for _ in range(20):
                jobs.add(version)
            jobs.add(version, state="queued")
            jobs.add(version, days_ago=9)
            jobs.add(version, variant="pinned")
            jobs.add(version, ("overloaded", "ok"), attempts=[1, 2])
        jobs.write()
        connection.execute(
            text("""
            UPDATE usage SET prompt_version = '1.0', prompt_sha256 = '000000000000aaaa'
            WHERE prompt_version = '1.1' AND outcome = 'overloaded'
            """)
        )

    told = json.loads(run("prompts", "compare", PROMPT, "1.0", "1.1", "--json").out)
    assert told["jobs"] == {"1.0": 21, "1.1": 20}
    assert any("1 jobs ran on more than one version" in note for note in told["notes"])
    valid = next(line for line in told["lines"] if line["name"] == "valid at once")
    assert valid["a"]["value"] == 1.0

    wider = ("--include-pinned", "--since", "4w", "--json")
    told = json.loads(run("prompts", "compare", PROMPT, "1.0", "1.1", *wider).out)
    assert told["jobs"] == {"1.0": 22, "1.1": 21}
    assert "jobs of other times are left out" in told["notes"][1]


def test_versions_that_were_not_served_together(engine: Engine, run: Run) -> None:
    with transaction(engine) as connection:
        jobs = Jobs(connection)
        for number in range(40):
            jobs.add("1.0", variant="release:1", days_ago=3)
            jobs.add("1.1", variant="release:2", user=f"u{number % 3}")
        jobs.write()

    found = run("prompts", "compare", PROMPT, "1.0", "1.1")

    assert "not served at the same time: inputs, users or the model may have changed" in found.out
    assert "only 3 users got one of them" in found.out


def test_what_cannot_be_compared_is_one_line(engine: Engine, run: Run) -> None:
    assert "the same version twice" in run("prompts", "compare", PROMPT, "1.0", "1.0").line
    assert "no prompt 'nonsense'" in run("prompts", "compare", "nonsense", "1.0", "1.1").line
    assert "no age such as" in run("prompts", "compare", PROMPT, "1.0", "1.1", "--since", "x").line
    nothing = run("prompts", "compare", PROMPT, "1.0", "1.1").line
    assert "no job of summarize_text/1.0 has ended in the last 7d (there are no calls)" in nothing
    with transaction(engine) as connection:
        jobs = Jobs(connection)
        jobs.add("1.0")
        jobs.write()
    assert "summarize_text/1.1" in run("prompts", "compare", PROMPT, "1.0", "1.1").line
    assert "(there are calls of 1.0)" in run("prompts", "compare", PROMPT, "1.0", "1.1").line


def test_a_release_tells_the_watchdog_what_to_expect(engine: Engine, run: Run) -> None:
    made = run("prompts", "release", PROMPT, "1.0", "--expect", "cost=6", "--expect", "validity=9")
    assert made.code == 0
    (found,) = view(engine, "SELECT evidence FROM prompt_releases")
    assert found["evidence"] == {"watch": {"cost": 6.0, "validity": 9.0}}
    wrong = run("prompts", "release", PROMPT, "1.0", "--expect", "speed=2")
    assert "'speed=2' is none of validity=…" in wrong.line


# The views.


def view(engine: Engine, statement: str) -> list[dict[str, Any]]:
    with transaction(engine) as connection:
        return [dict(row) for row in connection.execute(text(statement)).mappings()]


def test_the_view_tells_each_day_of_each_version_and_variant(engine: Engine) -> None:
    with transaction(engine) as connection:
        jobs = Jobs(connection)
        same = {"tokens": 100, "latency": 1000, "cost": 0.001}
        for outcomes in (("ok",), ("ok",), ("invalid_output", "ok"), ("refused",), ("truncated",)):
            jobs.add("1.0", outcomes, **same)
        jobs.add("1.0", ("rate_limited", "ok"), attempts=[1, 1], **same)
        jobs.add("1.0", ("ok",), days_ago=1, **same)
        jobs.add("1.0", ("ok",), variant="pinned", **same)
        jobs.add("1.1", ("ok",), **same)
        jobs.write()

    days = view(
        engine,
        """
        SELECT * FROM prompt_performance
        WHERE prompt_version = '1.0' AND variant = 'release:1' ORDER BY day
        """,
    )

    assert [row["jobs"] for row in days] == [1, 6]
    today = days[1]
    assert today["calls"] == 8
    assert today["first_replies"] == 5
    assert (today["first_valid"], today["first_invalid"]) == (2, 1)
    assert (today["first_refused"], today["first_truncated"]) == (1, 1)
    assert (today["output_tokens_p50"], today["latency_ms_p95"]) == (100, 1000)
    assert float(today["cost_usd"]) == pytest.approx(0.008)
    assert float(today["cost_usd_per_job"]) == pytest.approx(0.008 / 6)
    assert view(engine, "SELECT sum(jobs) AS n FROM prompt_performance") == [{"n": 9}]


@pytest.mark.usefixtures("compared")
def test_the_view_of_checks_counts_their_failures(engine: Engine) -> None:
    (found,) = view(engine, "SELECT * FROM prompt_check_failures")
    assert (found["prompt_version"], found["check_name"]) == ("1.1", "has_dates")
    # The fixture marks both calls of a repaired job.
    assert (found["calls"], found["first_calls"]) == (200, 100)


@pytest.mark.usefixtures("compared")
def test_the_view_outlives_the_jobs(engine: Engine) -> None:
    query = "SELECT prompt_version, jobs, first_valid FROM prompt_performance ORDER BY 1"
    before = view(engine, query)
    with transaction(engine) as connection:
        connection.execute(text("DELETE FROM jobs"))

    assert view(engine, query) == before
    assert [row["jobs"] for row in before] == [500, 500]
