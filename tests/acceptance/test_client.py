"""The typed client and the examples of docs/client.md, with a real gateway and a real worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel

from claude_jobs_client import (
    Delta,
    Error,
    JobEvent,
    JobFailed,
    JobsClient,
    NewJob,
    Result,
    Retrying,
)
from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from sandbox.service import PROJECT, Service
from sandbox.stack import Stack
from tests.integration.client.faulty import cut_after, faulty_server
from worker.storage.api_keys import create_key
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("worker")

TICKET = {"subject": "Paid twice", "body": "…", "categories": ["billing", "other"]}
SUMMARY = {"text": "The quick brown fox …", "max_words": 50, "audience": "everybody"}

_BLOCK = re.compile(r"^```(python|bash|js)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = _BLOCK.findall((PROJECT / "docs" / "client.md").read_text(encoding="utf-8"))
#: What each of them says, in their order.
SAID = [
    r"^(billing|other) (low|normal|high|critical)\n0\.\d+\n$",
    r"\n \w.*\n$",
    r"^5 of 5\n(succeeded 0\.\d+\n){5}",
    r'(?s)"state":"succeeded".*event: result\ndata: \{.*"output":\{',
    r"\n\w.* 0\.\d+\n$",
]


class Classification(BaseModel):
    category: str
    urgency: str


@pytest.fixture(scope="module")
def gateway(stack: Stack, fleet_environment: dict[str, str]) -> Iterator[Service]:
    service = stack.start_api("acceptance-api", **fleet_environment)
    yield service
    service.stop()


@pytest.fixture
def access(stack: Stack, gateway: Service, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The gateway's URL and a key, also in the environment, where the examples look for them."""
    with transaction() as connection:
        key = create_key(connection, "shop", by="test")[1]
    monkeypatch.setenv("CLAUDE_JOBS_URL", stack.api_url)
    monkeypatch.setenv("CLAUDE_JOBS_KEY", key)
    return stack.api_url, key


def test_a_job_comes_back_typed_and_priced(access: tuple[str, str]) -> None:
    with JobsClient(*access) as jobs:
        job = jobs.enqueue("classify_ticket", TICKET, output=Classification)
        output = jobs.wait(job, timeout=30)
        assert output.category in TICKET["categories"]
        assert jobs.get(job).usage.cost_usd > 0

        became = jobs.enqueue_many(NewJob("classify_ticket", TICKET) for _ in range(20))
        assert all(item.id and jobs.wait(item.id, timeout=30)["category"] for item in became)


def test_a_stream_that_is_cut_again_and_again_tells_the_same(
    access: tuple[str, str], claude: SimulatedClaude
) -> None:
    claude.configure(latency=0.1, tokens_per_second=80)
    claude.faults(Fault(cut=True, at={"events": 7}, stream=True))
    url, key = access
    with faulty_server(url) as faulty, JobsClient(url, key) as straight:
        faulty.then(*[cut_after(500)] * 50)
        with JobsClient(faulty.url, key) as jobs, ThreadPoolExecutor(1) as pool:
            job = straight.enqueue("summarize_text", SUMMARY, stream=True)
            undisturbed = pool.submit(lambda: _watched(straight.stream(job, timeout=30)))
            text, output = _watched(jobs.stream(job, timeout=30))
        assert len(faulty.seen) > 1
    expected, same = undisturbed.result()
    assert expected
    assert output == same
    # The end may be told before the last pieces of the text.
    assert expected.startswith(text) or text.startswith(expected)


def _watched(events: Iterator[JobEvent]) -> tuple[str, Any]:
    """The text that was left at the end, and the output."""
    text = ""
    for event in events:
        match event:
            case Delta(text=piece):
                text += piece
            case Retrying():
                text = ""
            case Result(output=output):
                return text, output
            case Error():
                raise AssertionError(event.error)
    raise AssertionError("there was no end")


def test_a_job_that_claude_refuses_fails_with_its_reason(
    access: tuple[str, str], claude: SimulatedClaude
) -> None:
    claude.faults(Fault(stop_reason="refusal", content="empty", times=5))
    with JobsClient(*access) as jobs:
        job = jobs.enqueue("classify_ticket", TICKET)
        with pytest.raises(JobFailed, match="refused") as caught:
            jobs.wait(job, timeout=30)
        assert caught.value.job.error is not None


def test_clients_wait_through_a_restart_of_the_gateway(
    access: tuple[str, str], gateway: Service, stack: Stack, claude: SimulatedClaude
) -> None:
    claude.configure(latency=1.5)
    with JobsClient(*access) as jobs:
        watched = jobs.stream(jobs.enqueue("classify_ticket", TICKET), timeout=30)
        gateway.stop()
        gateway.start()
        assert jobs.wait(jobs.enqueue("classify_ticket", TICKET), timeout=30)
        assert [*watched][-1].kind == "result"


@pytest.mark.parametrize("number", range(len(SAID)))
def test_the_examples_of_the_docs_run(
    number: int, access: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert len(EXAMPLES) == len(SAID)
    language, text = EXAMPLES[number]
    if language == "python":
        exec(compile(text, "docs/client.md", "exec"), {"__name__": "__main__"})  # noqa: S102
        said = capfd.readouterr().out
    else:
        said = _run(language, text)
    assert re.search(SAID[number], said), said


def _run(language: str, text: str) -> str:
    command = {
        "bash": ["bash", "-eu", "-c", text],
        "js": ["node", "--input-type=module", "-e", text],
    }[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=90, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout
