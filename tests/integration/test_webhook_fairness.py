"""A backlog of one host, or of one service, holds up nobody else's webhook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text

from tests.integration.hook import Hook
from tests.integration.steps import new_job
from worker.engine.job_webhooks import WebhookLoop
from worker.settings import get_settings
from worker.storage import webhook_queue, webhooks
from worker.storage.control import cancel_jobs
from worker.storage.engine import transaction
from worker.storage.enqueue import insert_jobs

pytestmark = pytest.mark.usefixtures("producer")

MANY = 50_000

_OWE = text("""
INSERT INTO webhook_deliveries
       (job_id, service, task, state, finished_at, url, host, next_attempt_at)
SELECT gen_random_uuid(), :service, 't', 'failed', now(), :url, replace(:host, '#', n::text),
       now() + :due * interval '1 s' + n * interval '1 ms'
FROM generate_series(1, :number) AS n
""")


def owe(
    url: str, *, number: int = MANY, host: str, service: str | None = None, due: float = -3600
) -> None:
    """A backlog; `#` in the host is each row's number, `due` in seconds from now."""
    values = {"url": url, "number": number, "host": host, "service": service, "due": due}
    with transaction() as connection:
        connection.execute(_OWE, values)


def end(url: str, service: str | None = None) -> UUID:
    """A job that has ended this moment."""
    job = new_job(webhook_url=url, service=service)
    with transaction() as connection:
        insert_jobs(connection, [job])
        cancel_jobs(connection, [job.id])
    return job.id


def host_of(url: str) -> str:
    return url.split("/")[2]


@pytest.fixture
def loop() -> WebhookLoop:
    """A worker's loop, which may call loopback."""
    own = {"webhook_secret": SecretStr("whsec_" + "A" * 32), "webhook_allow_private": True}
    return WebhookLoop(get_settings().model_copy(update=own))


@pytest.fixture
def hanging(hook: Hook) -> Iterator[Hook]:
    """A host that does not answer."""
    hook.answer = "hang"
    yield hook
    hook.release.set()


@pytest.fixture
def well() -> Iterator[Hook]:
    """Another one, which does."""
    started = Hook()
    yield started
    started.close()


def test_a_host_with_a_backlog_does_not_hold_up_another_host(
    hanging: Hook, well: Hook, loop: WebhookLoop, eventually: Callable[..., None]
) -> None:
    owe(hanging.url, host=host_of(hanging.url))
    for number in range(1, 4):
        end(well.url)

        loop.step()  # one look

        eventually(lambda n=number: len(well.requests) == n, "it waits behind the other host's")
    eventually(lambda: len(hanging.requests) == 4)
    assert attempted(host_of(hanging.url)) == 4


def test_a_service_with_a_backlog_does_not_hold_up_another_service(
    hanging: Hook, well: Hook, loop: WebhookLoop, eventually: Callable[..., None]
) -> None:
    owe(hanging.url, host="customer-#.example", service="greedy")
    for number in range(1, 4):
        end(well.url, service="shop")

        loop.step()

        eventually(lambda n=number: len(well.requests) == n, "it waits behind the other service's")
    eventually(lambda: len(hanging.requests) == 16)
    assert attempted("customer-%") == 16


def attempted(host: str) -> int:
    with transaction() as connection:
        found = connection.execute(
            text("SELECT count(*) FROM webhook_deliveries WHERE attempts > 0 AND host LIKE :host"),
            {"host": host},
        )
        return int(found.scalar_one())


def test_a_host_that_hangs_takes_no_more_than_its_part(
    hanging: Hook, well: Hook, loop: WebhookLoop, eventually: Callable[..., None]
) -> None:
    for _ in range(30):
        end(hanging.url)
        end(well.url)
    loop.start()
    try:
        eventually(lambda: len(well.requests) == 30, "the hanging host held up the other")
        assert len(hanging.requests) == 4
        # The loop's own looks are transactions, too, but short ones.
        eventually(lambda: open_transactions() == 0, "one is open while a webhook thinks")
    finally:
        loop.stop()


def open_transactions() -> int:
    """Connections that have begun a transaction and say nothing."""
    with transaction() as connection:
        counted = connection.execute(
            text("""SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state LIKE 'idle in transaction%'""")
        )
        return int(counted.scalar_one())


def test_looks_take_turns_through_the_hosts_of_a_service_that_has_many(well: Hook) -> None:
    owe(well.url, number=260, host="h#.example", due=3600)  # waits for another try
    owe(well.url, number=260, host="d#.example")
    owe(well.url, number=1, host="z.example")
    found: list[webhook_queue.Due] = []
    resume: dict[str, str] = {}
    looks = 0
    with transaction() as connection:
        while resume or not looks:
            seen = webhook_queue.look(connection, per_host=4, resume=resume)
            found, resume, looks = found + seen.due, seen.resume, looks + 1

    assert looks == 6
    assert {each.host for each in found} == {"z.example", *(f"d{n}.example" for n in range(1, 261))}


def test_a_host_is_found_whatever_its_name(well: Hook) -> None:
    hosts = {"", "%", "'", "x" * 255, "\N{SNOWMAN}", "[::1]:80"}
    for host in hosts:
        owe(well.url, number=1, host=host)

    with transaction() as connection:
        found = webhook_queue.look(connection, per_host=4, busy=["%"]).due

    assert {each.host for each in found} == hosts - {"%"}


@pytest.mark.parametrize(
    ("backlog", "most_pages"),
    [
        ({"host": "dead.example"}, 60),
        ({"host": "dead-#.example"}, 1500),
        ({"host": "dead-#.example", "due": 3600}, 1500),
    ],
)
def test_a_look_reads_little_however_much_is_waiting(
    well: Hook, backlog: dict[str, Any], most_pages: int
) -> None:
    owe("http://dead.example/", service="greedy", **backlog)
    end(well.url)
    with transaction() as connection:
        before = pages_read(connection)

        found = webhook_queue.look(connection, per_host=4)
        webhooks.give_up(connection)

        assert 0 < pages_read(connection) - before < most_pages
    assert host_of(well.url) in {each.host for each in found.due}
    assert len(found.due) <= 1 + webhook_queue.MOST_HOSTS * 4


def pages_read(connection: Connection) -> int:
    """Pages of deliveries and their indexes that this transaction has looked at so far."""
    counted = connection.execute(
        text("""
        SELECT pg_stat_get_xact_blocks_fetched('webhook_deliveries'::regclass)
            + (SELECT sum(pg_stat_get_xact_blocks_fetched(indexrelid)) FROM pg_index
               WHERE indrelid = 'webhook_deliveries'::regclass)
        """)
    )
    return int(counted.scalar_one())
