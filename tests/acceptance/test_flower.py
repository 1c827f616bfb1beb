"""Flower shows what runs, to whoever may see it, and nothing of what is in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.claude.faults import Fault
from sandbox.process import free_port, wait_until
from sandbox.service import Service
from sandbox.stack import FLOWER_COMMAND, Stack
from tasks import analyze_document, classify_ticket
from tests.preloaded import Worker
from worker.errors import JobFailed

LOGIN = "admin:correct-horse"
SECRET = "xylophone-confidential"


@dataclass
class Flower:
    url: str

    def ask(
        self, path: str, login: str | None = LOGIN, data: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """The status and body of a GET, or of a POST with `data`."""
        headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
        body = None if data is None else urllib.parse.urlencode(data).encode()
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 – loopback
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        status, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)


@pytest.fixture(scope="module")
def flower(stack: Stack, fleet_environment: dict[str, str], worker: Service) -> Iterator[Flower]:
    """Flower as in production, watching the module's worker."""
    port = free_port()
    secure = {"CLAUDE_JOBS_ENVIRONMENT": "production", "FLOWER_BASIC_AUTH": LOGIN}
    flower = Flower(f"http://127.0.0.1:{port}")
    command = FLOWER_COMMAND.format(port=port).split()

    def answers() -> bool:
        try:
            return flower.ask("/healthcheck", login=None)[0] == 200
        except OSError:
            return False

    service = Worker(command, fleet_environment | secure, stack.logs / "flower-acceptance.log")
    with service:
        service.wait_ready(answers)
        wait_until(
            lambda: bool(flower.json("/api/workers")), seconds=30, failure="Flower saw no worker"
        )
        yield flower
    assert SECRET not in service.log_text()


SEND = f"""
import sys
from celery import Celery
app = Celery(broker=sys.argv[1])
good = {{"text": "{SECRET}", "max_words": 50, "audience": "everybody"}}
app.send_task("summarize_text", kwargs=good, task_id=sys.argv[2], headers={{"user_id": "u-9"}})
app.send_task("summarize_text", kwargs={{"text": "{SECRET}"}}, task_id=sys.argv[3])
app.send_task("summarize_text", args=["{SECRET}"], task_id=sys.argv[4])
app.send_task("no_such_task", args=["{SECRET}"], kwargs={{"a": "{SECRET}"}}, task_id=sys.argv[5])
"""


@pytest.fixture(scope="module")
def shown(
    stack: Stack, flower: Flower, fleet_environment: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """What Flower shows of six jobs that hold a secret, by what became of them."""
    claude = stack.claude
    assert claude is not None
    claude.faults(
        Fault(match=f"refuse {SECRET}", stop_reason="refusal", times=None),
        Fault(match=f"analyse {SECRET}", content="missing_field", times=1),
    )
    good = analyze_document.enqueue(
        document_type="letter",
        focus_areas=[SECRET],
        output_depth="summary",
        document=f"analyse {SECRET}",
        user_id="user-7",
        prompt_version="1.0",
    )
    refused = classify_ticket.enqueue(
        subject=f"refuse {SECRET}", body=SECRET, categories=["a", "b"], user_id="user-8"
    )
    sent = [str(uuid.uuid4()) for _ in range(4)]
    subprocess.run(
        [sys.executable, "-I", "-c", SEND, fleet_environment["REDIS_URL"], *sent],
        check=True,
        timeout=60,
    )
    good.wait(30)
    with pytest.raises(JobFailed):
        refused.wait(30)
    names = ("succeeded", "refused", "sent", "unfit", "positional", "unknown")
    ids = dict(zip(names, [str(good.id), str(refused.id), *sent], strict=True))

    def states() -> dict[str, Any]:
        tasks = flower.json("/api/tasks")
        return {name: tasks.get(job_id) for name, job_id in ids.items()}

    wait_until(
        lambda: all(
            row and row["state"] in ("SUCCESS", "FAILURE")
            for name, row in states().items()
            if name != "unknown"
        ),
        seconds=30,
        failure=f"not all jobs ended: {states()}",
    )
    return states()


@pytest.fixture(autouse=True)
def fresh_claude() -> None:
    """The jobs of this module are made once: nothing is to be reset between its tests."""


PAGES = (
    "/",
    "/workers",
    "/tasks",
    "/tasks/datatable?draw=1&start=0&length=100&search[value]=&order[0][column]=0"
    "&order[0][dir]=asc&columns[0][data]=name",
    "/broker",
    "/api/workers",
    "/api/workers?refresh=1",
    "/api/tasks",
    "/api/task/types",
    "/api/queues/length",
)


def test_nothing_is_shown_without_the_login(flower: Flower) -> None:
    for path in PAGES:
        for login in (None, "admin:wrong", "other:correct-horse", ":"):
            status, body = flower.ask(path, login=login)
            assert (status, "summarize_text" in body) == (401, False), (path, login)


def test_a_health_check_needs_no_login(flower: Flower) -> None:
    assert flower.ask("/healthcheck", login=None) == (200, "OK")


def test_metrics_are_open_to_a_scraper_and_tell_of_tasks_but_of_no_job_or_user(
    flower: Flower, shown: dict[str, dict[str, Any]]
) -> None:
    status, body = flower.ask("/metrics", login=None)

    assert status == 200
    assert 'task="summarize_text"' in body
    assert not any(row["uuid"] in body for row in shown.values() if row)
    assert "user-" not in body


def test_jobs_are_listed_by_kind_with_their_outcome(shown: dict[str, dict[str, Any]]) -> None:
    outcomes = {k: (v["name"], v["state"]) for k, v in shown.items() if k != "unknown"}

    assert outcomes == {
        "succeeded": ("analyze_document", "SUCCESS"),
        "refused": ("classify_ticket", "FAILURE"),
        "sent": ("summarize_text", "SUCCESS"),
        "unfit": ("summarize_text", "FAILURE"),
        "positional": ("summarize_text", "FAILURE"),
    }
    assert "refused" in shown["refused"]["exception"]
    assert "invalid_input" in shown["unfit"]["exception"]


def test_arguments_are_the_job_s_id_its_version_and_its_user(
    shown: dict[str, dict[str, Any]],
) -> None:
    for name in ("succeeded", "refused", "sent", "unfit", "positional"):
        assert shown[name]["args"] == f"('{shown[name]['uuid']}',)"
    assert shown["succeeded"]["kwargs"] == "{'prompt_version': '1.0', 'user': 'user-7'}"
    assert "user-8" in shown["refused"]["kwargs"]
    assert shown["sent"]["kwargs"] == "{}"


def test_no_page_answer_or_metric_holds_an_input_or_an_output(
    flower: Flower,
    shown: dict[str, dict[str, Any]],
    worker: Service,
    fleet_environment: dict[str, str],
) -> None:
    ids = [row["uuid"] for row in shown.values() if row]
    (name,) = flower.json("/api/workers")
    paths = [*PAGES, f"/worker/{name}", "/metrics"]
    urls = [fleet_environment[name] for name in ("DATABASE_URL", "REDIS_URL")]
    secrets = [SECRET, "correct-horse", *(str(urllib.parse.urlsplit(u).password) for u in urls)]
    paths += [path + job for job in ids for path in ("/task/", "/api/task/info/")]

    for path in paths:
        status, body = flower.ask(path)
        assert status == 200, path
        assert not any(secret in body for secret in secrets), path
    assert SECRET not in worker.log_text()
    found = flower.ask(f"/api/tasks?search={SECRET}")
    assert json.loads(found[1]) == {}


CONTROLS = (
    "/api/worker/shutdown/{worker}",
    "/api/worker/pool/restart/{worker}",
    "/api/worker/pool/grow/{worker}?n=1",
    "/api/worker/pool/shrink/{worker}?n=1",
    "/api/worker/queue/cancel-consumer/{worker}?queue=celery",
    "/api/task/apply/summarize_text",
    "/api/task/async-apply/summarize_text",
    "/api/task/send-task/summarize_text",
    "/api/task/abort/{task}",
    "/api/task/revoke/{task}?terminate=1",
    "/api/task/rate-limit/summarize_text?ratelimit=1",
    "/api/task/timeout/summarize_text?soft=1",
)


def test_whoever_may_look_may_change_nothing(
    flower: Flower, shown: dict[str, dict[str, Any]], worker: Service
) -> None:
    (name,) = flower.json("/api/workers")
    before = flower.json("/api/tasks").keys()

    for path in CONTROLS:
        at = path.format(worker=name, task=shown["succeeded"]["uuid"])
        assert flower.ask(at, data={"args": "[]"}) == (403, "Read only mode is enabled"), at
        assert flower.ask(at, data={"args": "[]"}, login=None)[0] in (401, 403), at

    assert flower.json("/api/tasks").keys() == before
    assert worker.running


def test_the_queue_that_flower_shows_drains(
    flower: Flower, shown: dict[str, dict[str, Any]], eventually: Callable[..., None]
) -> None:
    def empty() -> bool:
        queues = flower.json("/api/queues/length")["active_queues"]
        return bool(queues) and all(queue["messages"] == 0 for queue in queues)

    eventually(empty, "messages are left in the queue")


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_person_with_a_browser_sees_the_jobs_and_no_input(
    flower: Flower, shown: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The table of tasks is built by JavaScript from a second request."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000")
    address = flower.url.replace("://", f"://{LOGIN}@") + "/tasks"
    page = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={tmp_path}", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout

    assert shown["succeeded"]["uuid"] in page
    assert "SUCCESS" in page
    assert "FAILURE" in page
    assert "user-7" in page
    assert SECRET not in page
