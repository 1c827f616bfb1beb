"""Jobs that are followed while Claude writes, by handles and in the terminal."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
import redis
from sqlalchemy import text

from sandbox.claude.client import SimulatedClaude
from sandbox.service import Service
from sandbox.stack import Stack
from tasks import classify_ticket, summarize_text
from worker.engine.events import Delta, Error, Partial, Result, Retrying
from worker.engine.following import afollow
from worker.engine.job import Job
from worker.settings import PROJECT
from worker.storage.engine import transaction
from worker.streams.entries import key_of

pytestmark = pytest.mark.usefixtures("worker")

Eventually = Callable[..., None]

LONG = {"text": "The fox jumps over the dog. " * 30, "max_words": 200, "audience": "everybody"}


@pytest.fixture(scope="module")
def worker(
    stack: Stack, fleet_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A worker that classifies with more room, or with another model, if it must."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts"
    shutil.copytree(PROJECT / "prompts", prompts)
    version = (prompts / "classify_ticket" / "1.0.toml").read_text()
    more = 'max_tokens_ceiling = 4000\nfallback_model = "claude-sonnet-5-5"\n'
    (prompts / "classify_ticket" / "9.0.toml").write_text(more + version)
    extra = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    service = stack.start_worker("streaming", CLAUDE_JOBS_PROMPTS_DIR=str(prompts), **extra)
    yield service
    service.stop()


def summary(user: str, **options: Any) -> Job[Any]:
    return summarize_text.enqueue(**LONG, user_id=user, **options)


def text_of(events: Sequence[Any]) -> str:
    """What a reader has at the end, who clears when told to."""
    text = ""
    for event in events:
        match event:
            case Delta(_, piece):
                text += piece
            case Retrying():
                text = ""
    return text


def kinds(events: Sequence[Any]) -> list[str]:
    """The kinds of events, neighbours of one kind once and deltas with their JSON as one."""
    names = ["text" if event.kind in ("delta", "partial") else event.kind for event in events]
    return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


@pytest.fixture
def slow(claude: SimulatedClaude) -> Iterator[SimulatedClaude]:
    """A Claude that takes half a second to a second for a summary, in many pieces."""
    claude.configure(latency=0.2, tokens_per_second=200.0, chunk_tokens=2)
    yield claude
    claude.configure(latency=0.0, tokens_per_second=None, chunk_tokens=8)


def test_a_job_is_seen_growing_and_ends_with_its_validated_output(slow: SimulatedClaude) -> None:
    job = summary("grows", stream=True)
    events = list(job.stream(timeout=30))

    assert kinds(events) == ["text", "result"]
    partials = [event.output for event in events if isinstance(event, Partial)]
    assert len(partials) > 3
    assert all(a != b for a, b in itertools.pairwise(partials))
    assert [len(p.get("summary", "")) for p in partials] == sorted(
        len(p.get("summary", "")) for p in partials
    )
    last = events[-1]
    assert isinstance(last, Result)
    assert last.output == job.wait(timeout=5)
    assert summarize_text.output.model_validate_json(text_of(events)) == last.output
    # And once more, now that it has ended: only the end.
    assert list(job.stream(timeout=5)) == [last]


def test_a_job_that_is_not_streamed_has_only_its_end(slow: SimulatedClaude) -> None:
    events = list(summary("whole").stream(timeout=30))

    assert kinds(events) == ["result"]


def test_readers_that_come_late_are_slow_or_many_have_the_same_end(slow: SimulatedClaude) -> None:
    job = summary("watched", stream=True)
    early = job.stream(timeout=30)
    first = next(early)
    late, crowd = [*job.stream(timeout=30)], asyncio.run(_crowd(job, 20))
    slow_one = [first, *early]  # has not been asked for anything since its first event

    assert text_of(late).startswith(text_of([first]))
    # It may have been told of the end before it took the rest.
    assert text_of(late).startswith(text_of(slow_one))
    assert late[-1] == slow_one[-1]
    assert len({json.dumps(events[-1].output) for events in crowd}) == 1


async def _crowd(job: Job[Any], size: int) -> list[list[Any]]:
    async def one() -> list[Any]:
        return [event async for event in afollow(job.id, quiet=0.05) if event is not None]

    return await asyncio.gather(*(one() for _ in range(size)))


def test_who_comes_back_goes_on_where_the_connection_was_lost(slow: SimulatedClaude) -> None:
    job = summary("resumed", stream=True)
    before: list[Any] = []
    for event in job.stream(timeout=30):
        before.append(event)
        if sum(isinstance(e, Delta) for e in before) == 2:
            break
    last_id = next(event.id for event in reversed(before) if isinstance(event, Delta))

    async def rest() -> list[Any]:
        return [event async for event in afollow(job.id, after=last_id) if event is not None]

    after = asyncio.run(rest())
    assert kinds(after) == ["text", "result"]
    assert json.loads(text_of([*before, *after])) == after[-1].output
    # The JSON goes on too, although its beginning was told over the lost connection.
    partial = next(event for event in after if isinstance(event, Partial))
    assert partial.output["summary"].startswith(json.loads(text_of([*before]) + '"}')["summary"])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"cut": True, "at": {"events": 20}}, "connection lost"),
        ({"sse_error": {"type": "overloaded_error"}, "at": {"events": 20}}, "overloaded"),
        ({"content": "wrong_type"}, "does not fit"),
        ({"stop_reason": "max_tokens"}, "cut off"),
        ({"stop_reason": "refusal", "reply": "I would rather not. " * 12}, "declined"),
    ],
    ids=["cut", "overloaded", "repair", "enlarge", "fall back"],
)
def test_what_will_not_be_the_result_is_taken_back(
    slow: SimulatedClaude, fault: dict[str, Any], reason: str
) -> None:
    slow.faults({"stream": True, "match": "taken back", **fault})
    job = classify_ticket.enqueue(
        subject="taken back", body="b", categories=["x", "y"], stream=True
    )
    events = list(job.stream(timeout=60))

    assert kinds(events) == ["text", "retrying", "text", "result"]
    (retrying,) = (event for event in events if isinstance(event, Retrying))
    assert reason in retrying.reason
    assert classify_ticket.output.model_validate_json(text_of(events)) == events[-1].output


def test_a_job_that_fails_or_is_cancelled_ends_with_its_error(slow: SimulatedClaude) -> None:
    slow.faults({"stream": True, "status": 400, "match": "refused"})
    refused = classify_ticket.enqueue(
        subject="refused", body="b", categories=["x", "y"], stream=True
    )
    last = [*refused.stream(timeout=30)][-1]
    assert isinstance(last, Error)
    assert (last.state, last.error["type"]) == ("failed", "invalid_request_error")

    slow.configure(tokens_per_second=30.0)
    job = summary("cancelled", stream=True)
    events = job.stream(timeout=30)
    seen = [next(events)]
    job.cancel()
    seen += events
    assert seen[-1] == Error("cancelled", seen[-1].error)


def test_nothing_of_a_job_is_in_redis_unless_it_was_asked_for(
    slow: SimulatedClaude, fleet_environment: dict[str, str], eventually: Eventually
) -> None:
    whole, streamed = summary("private"), summary("public", stream=True)
    whole.wait(timeout=30), streamed.wait(timeout=30)

    with redis.Redis.from_url(fleet_environment["REDIS_URL"]) as server:
        assert not server.exists(key_of(whole.id))
        # What was asked for goes a minute after the end.
        eventually(lambda: 0 < int(server.ttl(key_of(streamed.id))) <= 60)  # type: ignore[arg-type]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from worker.cli import main; main()", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False
    )


def held(user: str) -> Job[Any]:
    """A job that does not begin before it is let go: watching takes a while to start."""
    return summary(user, stream=True, run_at=datetime.now(UTC) + timedelta(days=1))


def let_go(job: Job[Any]) -> None:
    due = text("UPDATE jobs SET run_at = now() WHERE id = :id AND state = 'queued'")
    with transaction() as connection:
        connection.execute(due, {"id": job.id})


def test_watching_prints_what_is_written_to_stderr_and_the_output_to_stdout(
    claude: SimulatedClaude, eventually: Eventually
) -> None:
    claude.faults({"stream": True, "cut": True, "at": {"events": 8}, "delay": 1})
    claude.configure(latency=0.3)
    job = held("piped")
    watching = subprocess.Popen(
        command("watch", job.id), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    connected = psutil.Process(watching.pid).net_connections
    eventually(lambda: bool(connected()), "it never asked Postgres")
    let_go(job)
    stdout, stderr = watching.communicate(timeout=60)
    claude.configure(latency=0.0)

    assert watching.returncode == 0, stderr
    output = json.loads(stdout)
    assert output == job.wait(timeout=5).model_dump(mode="json")
    beginning, retrying, rest = stderr.split("\n", 2)
    assert retrying == "retrying: connection lost"
    assert beginning.startswith('{"')
    assert json.loads(rest) == output


def test_watching_in_a_terminal_shows_the_json_growing(claude: SimulatedClaude) -> None:
    claude.configure(latency=0.0, tokens_per_second=100.0, chunk_tokens=4)
    job = held("on screen")
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        command("watch", job.id),
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = ""
    with suppress(OSError):  # how a terminal ends
        while piece := os.read(ours, 65536):
            shown += piece.decode(errors="replace")
            if "nothing written yet" in shown:
                let_go(job)
    os.close(ours)
    claude.configure(latency=0.0, tokens_per_second=None, chunk_tokens=8)

    assert watching.wait(30) == 0, shown
    assert shown.count(" characters, ") > 3
    # What was live is wiped away, and the output is left; that alone has its closing bracket.
    live, left = shown[: shown.rindex("\x1b[")], shown[shown.rindex("\x1b[") :]
    assert "{" in live
    assert "\n}" not in live
    assert json.loads(left[left.index("{") :]) == job.wait(timeout=5).model_dump(mode="json")


def test_a_job_that_fails_is_one_line_and_exit_code_1(claude: SimulatedClaude) -> None:
    claude.faults({"status": 400})
    fields = ("subject=a", "body=b", 'categories=["x", "y"]')
    inputs = [argument for field in fields for argument in ("-i", field)]
    done = run("enqueue", "classify_ticket", *inputs, "--watch")

    assert done.returncode == 1
    assert done.stdout == ""
    job, failed = done.stderr.splitlines()
    assert job.startswith("job ")
    assert failed.startswith("claude-jobs: ")
    assert "failed: invalid_request_error" in failed
