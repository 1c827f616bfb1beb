"""Alerts through real workers: raised, posted, and no job the slower or the worse for it."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from sandbox.service import Service
from sandbox.stack import Stack
from tasks import summarize_text
from worker.storage import alerts, control
from worker.storage.engine import transaction

SUMMARY = json.dumps({"summary": "A fox and a dog.", "key_points": []})


class Hook:
    """A webhook; `held` keeps it from answering until `released`."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.held = False
        self.released = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posted.append(json.loads(body)["alert"])
                if hook.held:
                    hook.released.wait(60)
                    return
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/T0KEN"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def kinds(self) -> set[str]:
        return {alert["kind"] for alert in self.posted}

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    started = Hook()
    yield started
    started.close()


@pytest.fixture
def start(
    stack: Stack, fleet_environment: dict[str, str], hook: Hook
) -> Iterator[Callable[[str], Service]]:
    """Starts workers that post to the webhook."""
    own = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    extra = own | {"CLAUDE_JOBS_ALERT_WEBHOOK_URL": hook.url, "CLAUDE_JOBS_LEASE_SECONDS": "2"}
    started = []

    def worker(name: str) -> Service:
        started.append(stack.start_worker(f"alerts-{name}-{uuid.uuid4().hex[:6]}", **extra))
        return started[-1]

    yield worker
    for service in started:
        service.kill()


def summary(marker: str, **options: Any) -> Any:
    return summarize_text.enqueue(
        text=f"The fox and the dog. {marker}", max_words=50, audience="everybody", **options
    )


def reply(model: str, output_tokens: int) -> dict[str, Any]:
    """The body of a good reply, from a model and of a length that Claude would not give us."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": SUMMARY}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 100, "output_tokens": output_tokens},
    }


def raised() -> dict[str, Any]:
    with transaction() as connection:
        rows = connection.execute(text("SELECT * FROM alerts")).mappings()
        return {row["kind"]: row for row in rows}


def test_a_long_reply_an_unknown_price_and_a_spend_limit_are_told_and_change_no_result(
    claude: SimulatedClaude,
    hook: Hook,
    start: Callable[[str], Service],
    eventually: Callable[..., None],
) -> None:
    worker = start("one")
    long, unpriced, spent = (f"confidential-{uuid.uuid4().hex}" for _ in range(3))
    claude.faults(
        Fault(match=long, status=200, body=reply("claude-haiku-5-5", 5_001)),
        Fault(match=unpriced, status=200, body=reply("claude-imaginary-1", 20)),
    )
    jobs = [summary(long), summary(unpriced)]
    assert [job.wait(timeout=30).summary for job in jobs] == ["A fox and a dog."] * 2

    claude.faults(
        Fault(match=spent, status=429, error_code="enforced_spend_limit_reached", times=1)
    )
    paused = summary(spent)
    expected = {"output_bound", "unpriced_model", "spend_pause"}
    eventually(lambda: hook.kinds() == expected, "not all alerts were posted")

    with transaction() as connection:
        control.resume(connection, "all", "")
    assert paused.wait(timeout=30).summary
    found = raised()
    assert found["output_bound"]["subject"] == "summarize_text"
    assert found["output_bound"]["details"]["job_id"] == str(jobs[0].id)
    assert found["unpriced_model"]["subject"] == "claude-imaginary-1"
    eventually(lambda: all(row["delivered_at"] for row in raised().values()))
    assert len(hook.posted) == 3
    log = worker.log_text()
    assert log.count("kind=output_bound") == 1
    assert "confidential" not in log + json.dumps(hook.posted)
    assert "T0KEN" not in log


def test_what_a_dead_worker_had_not_looked_at_or_not_posted_is_done_by_the_next(
    claude: SimulatedClaude,
    hook: Hook,
    start: Callable[[str], Service],
    eventually: Callable[..., None],
    fleet_environment: dict[str, str],
) -> None:
    hook.held = True
    model, marker = f"claude-imaginary-{uuid.uuid4().hex}", uuid.uuid4().hex
    claude.faults(Fault(match=marker, status=200, body=reply(model, 20)))
    first = start("first")
    with transaction() as connection:
        alert = alerts.raise_alert(connection, "budget", uuid.uuid4().hex, "spent", {})
    eventually(lambda: bool(hook.posted), "nothing was posted")
    # Jobs run while the webhook hangs – and while somebody else seems to be looking at calls.
    with psycopg.connect(fleet_environment["DATABASE_URL"]) as looking:
        looking.execute("SELECT pg_advisory_xact_lock(x'636C6A61'::int)")
        for job in [summary(marker), *(summary(uuid.uuid4().hex) for _ in range(20))]:
            job.wait(timeout=30)
        first.kill()

    hook.held = False
    start("second")
    with transaction() as connection:  # instead of waiting for the pause to end
        connection.execute(
            text("UPDATE alerts SET next_delivery_at = now() WHERE delivered_at IS NULL")
        )

    eventually(lambda: raised()["budget"]["delivered_at"] is not None, "not delivered")
    budget = [posted["id"] for posted in hook.posted if posted["kind"] == "budget"]
    assert budget == [str(alert.id)] * 2
    eventually(lambda: model in {posted["subject"] for posted in hook.posted}, "not looked at")
