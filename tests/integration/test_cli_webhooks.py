"""`claude-jobs webhooks`: what was posted, what was not, and another try."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Engine

from tests.integration.command import Rows, Run
from tests.integration.steps import ERROR, new_job
from worker.engine.signing import secrets_for
from worker.storage import webhook_queue, webhooks
from worker.storage.engine import transaction
from worker.storage.enqueue import insert_rejected

SECRETS = "whsec_" + "A" * 32 + " whsec_" + "B" * 32
URL = "https://shop.example/T0KEN"


def test_deliveries_are_listed_and_posted_again(engine: Engine, run: Run, rows: Rows) -> None:
    assert run("webhooks").out == "no deliveries\n"
    with transaction(engine) as connection:
        for _ in range(2):
            insert_rejected(connection, new_job(webhook_url=URL), dict(ERROR))
        due = webhook_queue.look(connection, per_host=9).due
        good, bad = webhook_queue.claim(connection, due)
        webhooks.delivered(connection, good.id, 200)
        webhooks.delivery_failed(connection, bad, "HTTP 410", status=410, after=None)

    shown = run("webhooks").out
    assert "HTTP 200" in shown
    assert "given up: HTTP 410" in shown
    assert "shop.example" in shown
    assert "T0KEN" not in shown
    (row,) = json.loads(run("webhooks", "--undelivered", "--json").out)
    assert (row["job_id"], row["url"]) == (str(bad.job_id), URL)
    (row,) = json.loads(run("webhooks", "--job", good.job_id, "--json").out)
    assert row["status"] == 200

    assert "1 deliveries will be posted again" in run("webhooks", "retry", "--all").err
    due = "SELECT id FROM webhook_deliveries WHERE next_attempt_at <= now()"
    assert [row["id"] for row in rows(due)] == [bad.id]
    assert run("webhooks", "retry", good.id).code == 0
    assert len(rows(due)) == 2
    unknown = run("webhooks", "retry", good.job_id)
    assert (unknown.code, "does not exist" in unknown.err) == (1, True)
    assert "name deliveries by id" in run("webhooks", "retry").line
    assert "is not a delivery id" in run("webhooks", "retry", "x").line


def test_a_service_is_given_its_secrets(run: Run) -> None:
    printed = run("webhooks", "secret", "shop", CLAUDE_JOBS_WEBHOOK_SECRET=SECRETS)

    assert printed.out.split() == secrets_for(SECRETS, "shop")
    own = run("webhooks", "secret", CLAUDE_JOBS_WEBHOOK_SECRET=SECRETS)
    assert own.out.split() == SECRETS.split()
    assert "WEBHOOK_SECRET is not set" in run("webhooks", "secret", "shop").line
    for wrong in ("whsec_short", "A" * 32, "whsec_" + "!" * 40):
        line = run("webhooks", CLAUDE_JOBS_WEBHOOK_SECRET=wrong).line
        assert "CLAUDE_JOBS_WEBHOOK_SECRET is malformed: expected whsec_" in line
        assert wrong not in line
    assert SECRETS not in run("config", CLAUDE_JOBS_WEBHOOK_SECRET=SECRETS).out


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://shop.example/", "webhook_url is malformed: expected https://host/path"),
        ("https://shop.example/\r\nX: y", "webhook_url has characters that must be %-encoded"),
        ("https://b\N{SNOWMAN}.example/", "written as xn--"),
        ("https://shop.example/" + "x" * 10_000, "webhook_url has 10,021 characters"),
        ("https://a:b@shop.example:99999/", "webhook_url is malformed"),
    ],
)
def test_a_webhook_that_is_none_is_one_line(run: Run, url: str, problem: str) -> None:
    known = "-i", "text=x", "-i", "max_words=5", "-i", "audience=all"
    line = run("enqueue", "summarize_text", *known, "--webhook-url", url).line

    assert problem in line
    assert "shop.example" not in line
