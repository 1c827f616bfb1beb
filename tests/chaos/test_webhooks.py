"""Postgres goes away while webhooks are being posted: none is lost, each is posted again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from tests.integration.hook import Hook

SETTINGS = {
    "CLAUDE_JOBS_WEBHOOK_SECRET": "whsec_" + "A" * 32,
    "CLAUDE_JOBS_WEBHOOK_ALLOW_PRIVATE": "1",
}


@pytest.fixture
def hook() -> Iterator[Hook]:
    started = Hook()
    yield started
    started.close()


def test_webhooks_that_are_taken_while_postgres_is_down_are_posted_again(
    system: System, fleet: Fleet, hook: Hook
) -> None:
    hook.answer = "hang"
    ids = {str(job_id) for job_id in system.enqueue(3)}
    system.sql("UPDATE jobs SET webhook_url = %(url)s", url=hook.url)
    (worker,) = fleet.start(1, **SETTINGS)
    system.eventually(lambda: len(hook.requests) == len(ids), "they were not posted")

    system.stack.postgres.kill()
    hook.answer = "200"
    hook.release.set()
    system.eventually(
        lambda: worker.log_text().count("outcome not noted") == len(ids), "they were noted"
    )
    system.stack.postgres.start()

    system.sql(
        "UPDATE webhook_deliveries SET next_attempt_at = now()"
    )  # instead of a minute's wait
    system.eventually(lambda: undelivered(system) == 0, "they were not posted again")
    posted = Counter(body["data"]["id"] for _, _, body in hook.requests)
    assert posted == dict.fromkeys(ids, 2)
    message_ids = {headers["webhook-id"] for _, headers, _ in hook.requests}
    assert len(message_ids) == len(ids)
    assert worker.running


def undelivered(system: System) -> int:
    (row,) = system.sql("SELECT count(*) FROM webhook_deliveries WHERE delivered_at IS NULL")
    return int(row["count"])
