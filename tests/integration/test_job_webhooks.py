"""The ends of jobs: each is posted, signed, to where it may be, until it is taken."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import capture_logs

from sandbox.process import free_port
from tests.integration import steps
from tests.integration.hook import SECRET, Hook
from tests.integration.steps import new_job, run
from worker.engine import job_webhooks
from worker.engine.job_webhooks import WebhookLoop, check_webhooks
from worker.engine.outgoing import NotDelivered, post
from worker.engine.registry import Registry, load_registry
from worker.engine.signing import secrets_for, signatures
from worker.errors import ConfigurationError
from worker.settings import get_settings
from worker.storage import webhook_queue, webhooks
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("producer")

SECRETS = "whsec_" + "A" * 32 + " whsec_" + "B" * 32
URL = "https://user:pass@Shop.example:8443/hook?secret"


def loop(**settings: Any) -> WebhookLoop:
    """A worker's loop, which may call loopback."""
    given = {"webhook_secret": SecretStr(SECRETS), "webhook_allow_private": True}
    return WebhookLoop(get_settings().model_copy(update=given | settings))


HOSTILE = [
    "https://shop.example/\r\nX-Forwarded-For: 127.0.0.1",
    "https://shop.example\r\nHost: 127.0.0.1/",
    "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example/",
    "https://" + "\N{SNOWMAN}" * 10_000 + ".example/",
    "https://shop.example/" + "x" * 10_000,
    "gopher://127.0.0.1:25/_MAIL",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "https://",
    "https://[::1",
    "https://shop.example:99999/",
    "",
    "https://a..b/",
]


def test_whatever_a_row_names_as_its_webhook_its_job_ends_and_it_is_given_up_at_once() -> None:
    """As an owner's own INSERT has it, which nobody has checked."""
    for url in HOSTILE:
        job = new_job(webhook_url=url)
        with transaction() as connection:
            steps.succeed(connection, *run(connection, job))
        (it,) = claimed()

        with capture_logs() as logged:
            loop().deliver(it)

        row = stored(job.id)
        assert "its URL " in row.error
        assert (row.attempts, row.next_attempt_at) == (1, None)
        assert len(row.host) <= 255
        assert [entry["event"] for entry in logged] == ["webhook not delivered, given up"]
        with transaction() as connection:
            connection.execute(text("DELETE FROM webhook_deliveries"))


def ended(url: str, *, service: str | None = None) -> UUID:
    """A job that has succeeded."""
    job = new_job(webhook_url=url, service=service)
    with transaction() as connection:
        steps.succeed(connection, *run(connection, job))
    return job.id


def stored(job_id: UUID) -> Any:
    with transaction() as connection:
        return connection.execute(
            text("""SELECT *, extract(epoch FROM next_attempt_at - now())::float AS wait
                    FROM webhook_deliveries WHERE job_id = :id"""),
            {"id": job_id},
        ).one()


def due_now() -> None:
    with transaction() as connection:
        connection.execute(text("UPDATE webhook_deliveries SET next_attempt_at = now()"))


def claimed(limit: int = 10) -> list[webhook_queue.Ended]:
    with transaction() as connection:
        due = webhook_queue.look(connection, per_host=limit).due
        return webhook_queue.claim(connection, due, with_output=True)


def test_an_end_is_posted_as_standard_webhooks_has_it(
    hook: Hook, eventually: Callable[..., None]
) -> None:
    job_id = ended(hook.url, service="shop")
    worker, began = loop(), int(time.time())

    worker.step()
    eventually(lambda: stored(job_id).delivered_at is not None)

    ((path, headers, body),) = hook.requests
    row = stored(job_id)
    assert path == f"/hook/{SECRET}"
    assert body == {
        "type": "job.succeeded",
        "timestamp": row.finished_at.isoformat(),
        "data": {
            "id": str(job_id),
            "task": "t",
            "state": "succeeded",
            "finished_at": row.finished_at.isoformat(),
        },
    }
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == f"msg_{row.id.hex}"
    sent_at = int(headers["webhook-timestamp"])
    assert began <= sent_at <= time.time()
    assert headers["webhook-signature"] == signatures(
        secrets_for(SECRETS, "shop"), headers["webhook-id"], sent_at, hook.bodies[0]
    )
    assert len(headers["webhook-signature"].split()) == 2
    (secret, _) = secrets_for(SECRETS, "shop")
    assert spec_signature(secret, headers, hook.bodies[0]) in headers["webhook-signature"].split()
    assert (row.attempts, row.status, row.next_attempt_at, row.error) == (1, 200, None, None)
    assert worker.step() > 0.5
    assert len(hook.requests) == 1


def spec_signature(secret: str, headers: dict[str, str], body: bytes) -> str:
    """A signature as the specification has it, in its own words and with nothing of ours."""
    key = base64.b64decode(secret.split("_")[1])
    signed = b".".join(
        [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
    )
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def test_an_output_is_posted_if_that_is_set(hook: Hook) -> None:
    ended(hook.url)
    with transaction() as connection:
        steps.fail(connection, *run(connection, new_job(webhook_url=hook.url)))
    for each in claimed():
        loop(webhook_output=True).deliver(each)

    outputs = {body["type"]: body["data"]["output"] for _, _, body in hook.requests}
    assert outputs == {"job.succeeded": {"a": 1}, "job.failed": None}


@pytest.mark.parametrize(
    ("answer", "reason", "status"),
    [
        ("500", "HTTP 500", 500),
        ("redirect", "HTTP 307", 307),
        ("garbage", "BadStatusLine", None),
        ("hang", "no answer within 0.3 s", None),
        ("trickle", "no answer within 0.3 s", None),
    ],
)
def test_a_webhook_that_fails_is_called_again_until_it_is_well(
    hook: Hook, answer: str, reason: str, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_webhooks, "_TIMEOUT", 0.3)
    hook.answer = answer
    job_id = ended(hook.url)
    (first,) = claimed()
    assert 55 < stored(job_id).wait <= 60  # nobody else's for a minute
    assert claimed() == []

    with capture_logs() as logged:
        loop().deliver(first)

    row = stored(job_id)
    assert (row.attempts, row.error, row.status, row.delivered_at) == (1, reason, status, None)
    assert 10 < row.wait < 20
    ((entry),) = logged
    assert (entry["job_id"], entry["reason"]) == (str(job_id), reason)
    assert SECRET not in str(logged)

    hook.answer = "204"
    hook.release.set()
    due_now()
    (second,) = claimed()
    loop().deliver(second)
    assert stored(job_id).status == 204
    assert len({headers["webhook-id"] for _, headers, _ in hook.requests}) == 1
    assert {path for path, _, _ in hook.requests} == {f"/hook/{SECRET}"}


def test_the_body_of_an_answer_is_not_read(hook: Hook) -> None:
    hook.answer = "flood"
    job_id = ended(hook.url)
    (it,) = claimed()

    loop().deliver(it)

    assert stored(job_id).status == 200


def test_an_old_attempt_s_failure_does_not_undo_what_came_after(hook: Hook) -> None:
    job_id = ended(hook.url)
    (slow,) = claimed()
    due_now()
    (quick,) = claimed()
    loop().deliver(quick)

    with transaction() as connection:
        webhooks.delivery_failed(connection, slow, "HTTP 500", status=500, after=15)

    assert (stored(job_id).status, stored(job_id).next_attempt_at) == (200, None)


def test_pauses_grow_and_end_after_a_day(hook: Hook) -> None:
    hook.answer = "500"
    job_id = ended(hook.url)
    waits = []
    for _ in range(11):
        due_now()
        (it,) = claimed()
        loop().deliver(it)
        waits.append(stored(job_id).wait)
    nominal = [15 * 2**n for n in range(8)] + [3600] * 3
    assert all(0.75 * n < wait < 1.25 * n for n, wait in zip(nominal, waits, strict=True))

    due_now()
    with transaction() as connection:
        connection.execute(text("UPDATE webhook_deliveries SET give_up_at = now()"))
    with capture_logs() as logged:
        loop().step()
    row = stored(job_id)
    assert (row.next_attempt_at, row.error) == (None, "HTTP 500")
    assert [entry["log_level"] for entry in logged] == ["error"]
    assert len(hook.requests) == 11


def test_a_webhook_that_is_gone_is_not_called_again(hook: Hook) -> None:
    hook.answer = "410"
    job_id = ended(hook.url)
    (it,) = claimed()

    loop().deliver(it)

    assert (stored(job_id).next_attempt_at, stored(job_id).error) == (None, "HTTP 410")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"webhook_allow_private": False}, "its host is not on the internet"),
        ({"webhook_secret": None}, "CLAUDE_JOBS_WEBHOOK_SECRET is not set"),
    ],
)
def test_what_must_not_be_called_is_not(hook: Hook, settings: dict[str, Any], reason: str) -> None:
    job_id = ended(hook.url)
    (it,) = claimed()

    loop(**settings).deliver(it)

    assert reason in stored(job_id).error
    assert hook.requests == []


def test_only_the_addresses_that_were_looked_at_are_called(hook: Hook) -> None:
    """The name is not resolved again, which might have another answer by now; no proxy is asked."""
    port = hook.url.split(":")[2].split("/")[0]
    elsewhere = f"http://rebinding.invalid:{port}/x"

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        status = post(elsewhere, {}, b"{}", timeout=5, addresses=["127.0.0.1"])
        with pytest.raises(NotDelivered, match="refused"):
            post(hook.url, {}, b"{}", timeout=5, addresses=["127.0.0.2"])

    assert status == 200
    ((path, headers, _),) = hook.requests
    assert (path, headers["host"]) == ("/x", f"rebinding.invalid:{port}")


def test_many_workers_post_each_end_once(hook: Hook) -> None:
    ids = {str(ended(hook.url)) for _ in range(20)}

    def worker(_: int) -> None:
        while due := claimed(limit=3):
            for each in due:
                loop().deliver(each)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(worker, range(6)))

    assert sorted(body["data"]["id"] for _, _, body in hook.requests) == sorted(ids)


def test_a_task_with_a_webhook_needs_a_secret() -> None:
    settings = get_settings()
    registry = load_registry()
    check_webhooks(settings, registry)
    told = Registry(dict(registry), registry.prompts)
    task = registry["summarize_text"]
    object.__setattr__(task, "webhook_url", URL)
    try:
        with pytest.raises(
            ConfigurationError, match="WEBHOOK_SECRET is not set, and the task summ"
        ):
            check_webhooks(settings, told)
    finally:
        object.__setattr__(task, "webhook_url", None)


def test_old_deliveries_are_deleted(hook: Hook) -> None:
    ended(hook.url)
    with transaction() as connection:
        assert webhooks.prune(connection, older_than=3600) == 0
        connection.execute(text("UPDATE webhook_deliveries SET created_at = '2020-01-01'"))
        assert webhooks.prune(connection, older_than=3600) == 1
