"""A version that is made bad on purpose is rolled back by a real worker, within 100 jobs."""

from __future__ import annotations

import json
import statistics
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from sandbox.service import Service
from sandbox.stack import Stack
from tasks import summarize_text
from worker.engine import releasing
from worker.engine.prompts import PromptLibrary
from worker.settings import PROJECT
from worker.storage import releases
from worker.storage.engine import transaction
from worker.storage.releases import Release

#: What a version says to Claude, so that the simulated one misbehaves for that version alone.
MARKS = {"1.1": "Answer in the manner of 1.1.", "1.2": "As 1.2 would.", "1.3": "Like 1.3."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped prompts, and three more versions of `summarize_text`."""
    folder = tmp_path_factory.mktemp("prompts")
    for path in (PROJECT / "prompts").glob("*/*.toml"):
        (folder / path.parent.name).mkdir(exist_ok=True)
        (folder / path.parent.name / path.name).write_text(path.read_text())
    content = (folder / "summarize_text" / "1.0.toml").read_text()
    for version, mark in MARKS.items():
        changed = content.replace("# Judgement", f"{mark}\n\n# Judgement")
        (folder / "summarize_text" / f"{version}.toml").write_text(changed)
    return folder


@pytest.fixture
def library(folder: Path) -> PromptLibrary:
    return PromptLibrary.load(folder)


@pytest.fixture
def worker(stack: Stack, fleet_environment: dict[str, str], folder: Path) -> Iterator[Service]:
    """A worker that rolls back."""
    own = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    extra = own | {"CLAUDE_JOBS_PROMPTS_DIR": str(folder), "CLAUDE_JOBS_WATCHDOG": "rollback"}
    service = stack.start_worker("watchful", app="tests.acceptance.watchful", **extra)
    yield service
    service.stop()


def summaries(number: int) -> list[Any]:
    return [
        summarize_text.enqueue(
            text=f"The fox and the dog. {uuid.uuid4().hex}",
            max_words=50,
            audience="everybody",
            user_id=f"user-{n}",
            max_attempts=100,
        )
        for n in range(number)
    ]


def put(library: PromptLibrary, version: str) -> Release:
    with transaction() as connection:
        return releasing.release(connection, library, "summarize_text", {version: 10_000}, by="ada")


def newest() -> Release:
    with transaction() as connection:
        return releases.history(connection, "summarize_text")[0]


def column(statement: str, **values: Any) -> list[Any]:
    with transaction() as connection:
        return list(connection.execute(text(statement), values).scalars())


def bad_replies(lengths: list[int]) -> dict[str, dict[str, Any]]:
    """What the simulated Claude does to each version: nothing that fits, refusals, long replies."""
    usage = {"input_tokens": 100, "output_tokens": round(3 * statistics.fmean(lengths))}
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-5-5",
        "content": [{"type": "text", "text": json.dumps({"summary": "A fox.", "key_points": []})}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }
    return {
        "1.1": {"content": "wrong_type"},
        "1.2": {"stop_reason": "refusal"},
        "1.3": {"status": 200, "body": body},
    }


def rolled_back(library: PromptLibrary, version: str, eventually: Callable[..., None]) -> list[Any]:
    """Jobs that had ended after `version` was released and taken back again."""
    bad = put(library, version)
    watched = "SELECT count(*) FROM release_watches WHERE release_id = :id"
    eventually(lambda: column(watched, id=bad.id) == [1], "not watched")
    jobs = summaries(60)
    eventually(lambda: newest().id != bad.id, f"{version} was not rolled back")

    restored = newest()
    assert (restored.kind, restored.weights) == ("automatic_rollback", {"1.0": 100.0})
    assert version in restored.reason
    of_bad = "SELECT count(DISTINCT job_id) FROM usage WHERE variant = :variant"
    assert column(of_bad, variant=f"release:{bad.id}")[0] <= 100
    eventually(lambda: all(job.state in ("succeeded", "failed") for job in jobs))
    return jobs


def test_a_version_made_bad_on_purpose_is_rolled_back_within_100_jobs(
    worker: Service,
    claude: SimulatedClaude,
    library: PromptLibrary,
    eventually: Callable[..., None],
) -> None:
    good = put(library, "1.0")
    for job in summaries(120):
        job.wait(timeout=60)
    kept = "SELECT cardinality(tokens) FROM recent_replies WHERE prompt = 'summarize_text'"
    eventually(lambda: column(kept) == [120], "the replies of 1.0 were not looked at")
    lengths = column("SELECT output_tokens FROM usage")

    for version, fault in bad_replies(lengths).items():
        claude.faults(Fault(match=MARKS[version], times=None, **fault))
        jobs = rolled_back(library, version, eventually)
        # What was refused has failed: nothing but a person brings it back.
        expected = {"succeeded", "failed"} if version == "1.2" else {"succeeded"}
        assert {job.state for job in jobs} <= expected
        claude.clear_faults()

    eventually(lambda: worker.log_text().count("kind=release_rolled_back") == 3)
    assert good.id == column("SELECT min(restores) FROM prompt_releases")[0]
    told = column("SELECT subject FROM alerts WHERE kind = 'release_rolled_back' ORDER BY 1")
    assert told == [f"summarize_text/{version}" for version in MARKS]
