"""How a worker calls Claude: streamed where asked, with a cached prefix, and within a budget."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.service import Service
from sandbox.stack import Stack
from tasks import classify_ticket, summarize_text
from worker.errors import JobFailed
from worker.settings import PROJECT
from worker.storage import read
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("worker")

TEXT = "The quick brown fox jumps over the lazy dog, and the dog never minds. "


@pytest.fixture(scope="module")
def worker(
    stack: Stack, fleet_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A worker whose prompt for summaries is long and cached, with a budget for tickets."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts"
    shutil.copytree(PROJECT / "prompts", prompts)
    cached = _cached((prompts / "summarize_text" / "1.0.toml").read_text())
    (prompts / "summarize_text" / "9.0.toml").write_text(cached)
    extra = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    extra |= {"CLAUDE_JOBS_PROMPTS_DIR": str(prompts), "CLAUDE_JOBS_STALL_SECONDS": "1"}
    service = stack.start_worker("frugal", app="tests.acceptance.frugal", **extra)
    yield service
    service.stop()


def _cached(version: str) -> str:
    long_enough = "Read every sentence of the text before you write the first one. " * 300
    return 'cache = "1h"\n' + version.replace("You summarise", f"{long_enough}You summarise")


def summary(text: str, **options: Any) -> Any:
    return summarize_text.enqueue(
        text=TEXT + text, max_words=50, audience="everybody", user_id=text, **options
    )


def calls(job: Any) -> list[Any]:
    with transaction() as connection:
        return list(read.job_details(connection, job.id)[1])


def test_a_stream_is_timed_to_its_first_token(claude: SimulatedClaude) -> None:
    # One after the other: the first to meet a cold prompt cache is streamed in any case.
    streamed = summary("streamed", stream=True)
    streamed.wait(timeout=20)
    whole = summary("whole")
    whole.wait(timeout=20)

    ((first,), (second,)) = calls(streamed), calls(whole)
    assert first["first_token_ms"] is not None
    assert second["first_token_ms"] is None
    assert {entry.tag: entry.stream for entry in claude.ledger()} == {
        "streamed": True,
        "whole": False,
    }


def test_what_a_cut_stream_cost_is_recorded_as_incomplete(claude: SimulatedClaude) -> None:
    claude.faults({"match": "cut short", "stall": 30, "at": {"events": 4}})

    job = summary("cut short", stream=True)
    job.wait(timeout=30)

    cut, again = calls(job)
    entries = claude.ledger()
    assert (cut["outcome"], cut["complete"]) == ("timeout", False)
    assert (again["outcome"], again["complete"]) == ("ok", True)
    assert [entry.request_id for entry in entries] == [cut["request_id"], again["request_id"]]
    assert cut["input_tokens"] == entries[0].usage.input_tokens
    # At least what the input cost: the output's tokens come at the end of a stream.
    assert 0 < cut["cost_usd"] < entries[0].cost_usd
    assert again["cost_usd"] == entries[1].cost_usd


def test_a_prompt_version_can_have_its_prefix_cached(claude: SimulatedClaude) -> None:
    first = summary("first")
    first.wait(timeout=20)
    second = summary("second", stream=True)
    second.wait(timeout=20)

    ((wrote,), (read_back,)) = calls(first), calls(second)
    assert wrote["prompt_version"] == "9.0"
    assert wrote["cache_write_1h_tokens"] == read_back["cache_read_tokens"] > 2048
    assert wrote["cache_write_5m_tokens"] == 0
    assert [wrote["cost_usd"], read_back["cost_usd"]] == [e.cost_usd for e in claude.ledger()]
    assert read_back["cost_usd"] < wrote["cost_usd"] / 5


def test_no_further_call_is_made_once_the_budget_is_used_up(claude: SimulatedClaude) -> None:
    claude.faults({"match": "too dear", "content": "missing_field", "times": None})

    job = classify_ticket.enqueue(subject="too dear", body=TEXT, categories=["billing", "other"])
    with pytest.raises(JobFailed, match="tokens") as caught:
        job.wait(timeout=20)

    assert caught.value.error["type"] == "budget_spent"
    assert "of its 1 tokens; the last call:" in caught.value.error["message"]
    # Neither repaired nor tried again.
    assert [call["outcome"] for call in calls(job)] == ["invalid_output"]
    assert len(claude.ledger()) == 1
