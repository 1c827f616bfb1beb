"""Posting alerts to a real HTTP server that answers well, badly, late, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from sandbox.process import free_port
from tests.integration.hook import SECRET, Hook
from worker.engine import webhook
from worker.engine.alerts import AlertLoop
from worker.engine.webhook import DeliveryLoop, NotDelivered, post
from worker.storage import alerts, deliveries
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("producer")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_TIMEOUT", 0.3)


def raised(subject: str = "summarize_text") -> str:
    with transaction() as connection:
        message = "5,001 > 5,000 & <so on>"
        found = alerts.raise_alert(connection, "output_bound", subject, message, {"n": 1})
    return str(found.id)


def delivery() -> deliveries.Delivery:
    raised()
    with transaction() as connection:
        claimed = deliveries.claim_delivery(connection)
    assert claimed is not None
    return claimed


def stored() -> Any:
    with transaction() as connection:
        return connection.execute(
            text(
                "SELECT *, extract(epoch FROM next_delivery_at - now())::float AS wait FROM alerts"
            )
        ).one()


def due_now() -> None:
    with transaction() as connection:
        connection.execute(text("UPDATE alerts SET next_delivery_at = now()"))


def test_an_alert_is_posted_once_as_slack_and_programs_expect_it(hook: Hook) -> None:
    alert_id = raised()
    loop = DeliveryLoop(hook.url)

    assert loop.step() == 0
    assert loop.step() > 0

    ((path, headers, body),) = hook.requests
    assert path == f"/hook/{SECRET}"
    assert headers["idempotency-key"] == alert_id
    assert headers["content-type"] == "application/json"
    assert body["text"] == "output_bound summarize_text: 5,001 &gt; 5,000 &amp; &lt;so on&gt;"
    assert body["alert"] | {"first_at": 0, "last_at": 0} == {
        "id": alert_id,
        "kind": "output_bound",
        "subject": "summarize_text",
        "message": "5,001 > 5,000 & <so on>",
        "details": {"n": 1},
        "count": 1,
        "first_at": 0,
        "last_at": 0,
    }
    row = stored()
    assert (row.delivery_attempts, row.next_delivery_at, row.delivery_error) == (1, None, None)
    assert row.delivered_at is not None


def test_a_name_and_password_become_basic_auth(hook: Hook) -> None:
    post(hook.url.replace("http://", "http://me:p%40ss@"), delivery())

    ((path, headers, _),) = hook.requests
    assert path == f"/hook/{SECRET}"
    assert headers["authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("500", "HTTP 500"),
        ("404", "HTTP 404"),
        ("redirect", "HTTP 307"),
        ("garbage", "BadStatusLine"),
        ("hang", "no answer within 0.3 s"),
        ("trickle", "no answer within 0.3 s"),
    ],
)
def test_a_webhook_that_fails_is_told_why_and_tried_again(
    hook: Hook, answer: str, reason: str
) -> None:
    hook.answer = answer
    alert_id = raised()
    loop = DeliveryLoop(hook.url)

    with capture_logs() as logged:
        assert loop.step() == 0

    row = stored()
    assert (row.delivered_at, row.delivery_attempts, row.delivery_error) == (None, 1, reason)
    assert 0 < row.wait <= 15
    assert [(entry["id"], entry["reason"]) for entry in logged] == [(alert_id, reason)]
    assert {path for path, _, _ in hook.requests} == {f"/hook/{SECRET}"}

    hook.answer = "204"
    assert loop.step() > 0  # not due yet
    due_now()
    loop.step()
    assert stored().delivered_at is not None
    assert {headers["idempotency-key"] for _, headers, _ in hook.requests} == {alert_id}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{free}/{secret}",
        "https://127.0.0.1:{port}/{secret}",
        "http://no-such-host.invalid/{secret}",
        "http://[::ffff]:1/{secret}",
        "http://a..b/{secret}",
        f"http://{'x' * 70}.example/{{secret}}",
    ],
)
def test_a_webhook_that_is_not_there_is_no_secret_s_end(
    hook: Hook, url: str, impatient: None
) -> None:
    port = hook.url.split(":")[2].split("/")[0]

    with pytest.raises(NotDelivered) as caught:
        post(url.format(free=free_port(), port=port, secret=SECRET), delivery())

    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pauses_grow_and_end_after_a_day() -> None:
    raised()
    waits = []
    for _ in range(12):
        due_now()
        with transaction() as connection:
            claimed = deliveries.claim_delivery(connection)
            assert claimed is not None
            deliveries.delivery_failed(connection, claimed.id, "HTTP 500")
        waits.append(round(stored().wait))
    assert waits[:4] == [15, 30, 60, 120]
    assert waits[-1] == 3600

    due_now()
    with transaction() as connection:
        connection.execute(text("UPDATE alerts SET first_at = now() - interval '25 hours'"))
        assert len(deliveries.give_up(connection)) == 1
        assert deliveries.claim_delivery(connection) is None
    assert (stored().delivery_error, stored().next_delivery_at) == ("HTTP 500", None)


def test_many_workers_post_each_alert_once(hook: Hook) -> None:
    ids = {raised(str(n)) for n in range(30)}

    def worker(_: int) -> None:
        loop = DeliveryLoop(hook.url)
        while loop.step() == 0:
            pass

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(worker, range(6)))

    assert sorted(body["alert"]["id"] for _, _, body in hook.requests) == sorted(ids)


def test_a_webhook_that_hangs_keeps_nobody_from_looking(
    hook: Hook, eventually: Callable[..., None]
) -> None:
    hook.answer = "hang"
    raised()
    posting = DeliveryLoop(hook.url)
    posting.start()
    eventually(lambda: len(hook.requests) == 1)

    with transaction() as connection:
        # No transaction is open while the webhook thinks.
        waiting = connection.execute(
            text("""SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state LIKE 'idle in transaction%'""")
        ).scalar_one()
    assert waiting == 0
    assert AlertLoop({}).step() > 0

    hook.answer = "200"
    hook.release.set()
    posting.stop()
