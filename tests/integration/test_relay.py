"""From a row to a message: woken by the database, safe when the broker is away."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from sqlalchemy import text

from sandbox.claude.client import SimulatedClaude
from sandbox.stack import WORKER_COMMAND, Stack
from sandbox.valkey import Valkey
from tasks import summarize_text
from tests.preloaded import Worker
from worker.engine.job import Job
from worker.engine.relay import Publish, Relay
from worker.settings import get_settings
from worker.storage.dispatch import Dispatched
from worker.storage.engine import transaction
from worker.transport.config import celery_config
from worker.transport.publish import publisher

SECRET = "xylophone-confidential"


def enqueue(number: int = 0, **options: Any) -> Job[Any]:
    return summarize_text.enqueue(
        text=f"{SECRET} number {number}", max_words=50, audience="everybody", **options
    )


def states() -> dict[str, int]:
    """How many jobs are in which state."""
    with transaction() as connection:
        rows = connection.execute(text("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {row.state: row.count for row in rows}


class Sent:
    """Takes the batches that a relay publishes, unless the broker is `down`."""

    def __init__(self, *, down: bool = False) -> None:
        self.down = down
        self.jobs: list[Dispatched] = []

    def __call__(self, jobs: Sequence[Dispatched]) -> bool:
        if not self.down:
            self.jobs += jobs
        return not self.down


def relay(publish: Publish) -> Relay:
    """A relay that is not started, and does not wait when the broker is down."""
    made = Relay(get_settings(), publish)
    made.stopping.set()
    return made


@pytest.fixture
def app(environment: dict[str, str], producer: None) -> Iterator[Celery]:
    """A Celery app as the worker's, on the fresh broker."""
    app = Celery("test", set_as_current=False)
    app.conf.update(celery_config(get_settings()))
    yield app
    app.close()


def test_a_message_carries_the_job_s_id_and_nothing_of_its_input(
    app: Celery, environment: dict[str, str]
) -> None:
    job = enqueue(user_id="user-7", prompt_version="1.0")

    relay(publisher(app)).dispatch()

    with redis.Redis.from_url(environment["REDIS_URL"]) as broker:
        (message,) = broker.lrange("celery", 0, -1)
        assert all(SECRET.encode() not in broker.dump(key) for key in broker.scan_iter())
    envelope = json.loads(message)
    args, kwargs, _ = json.loads(b64decode(envelope["body"]))
    assert (args, kwargs) == ([str(job.id)], {})
    assert envelope["headers"]["task"] == "summarize_text"
    assert envelope["headers"]["id"] == str(job.id)
    assert job.state == "dispatched"


@pytest.mark.usefixtures("producer")
def test_what_the_broker_did_not_take_waits_in_postgres() -> None:
    jobs = [enqueue(number) for number in range(5)]
    sent = Sent(down=True)

    relay(sent).dispatch()

    assert states() == {"queued": 5}
    sent.down = False
    relay(sent).dispatch()
    assert [job.id for job in sent.jobs] == [job.id for job in jobs]
    assert states() == {"dispatched": 5}


def test_the_working_set_bounds_what_waits_in_the_broker(
    producer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_JOBS_WORKING_SET", "3")
    get_settings.cache_clear()
    for number in range(5):
        enqueue(number)
    sent = Sent()

    for _ in range(3):
        relay(sent).dispatch()

    assert len(sent.jobs) == 3
    assert states() == {"dispatched": 3, "queued": 2}


@pytest.mark.parametrize("by", ["Python", "SQL"])
def test_a_commit_wakes_the_relay_without_a_poll(
    by: str, producer: None, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    monkeypatch.setenv("CLAUDE_JOBS_POLL_SECONDS", "3600")
    get_settings.cache_clear()
    sent = Sent()
    running = Relay(get_settings(), sent)

    def listening() -> bool:
        idle = text("""
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'claude-jobs relay'
              AND state = 'idle' AND query LIKE 'LISTEN%'
        """)
        with transaction() as connection:
            return bool(connection.execute(idle).scalar_one())

    running.start()
    try:
        eventually(listening, "the relay does not listen")
        if by == "Python":
            enqueue()
        else:
            with transaction() as connection:
                connection.execute(text("INSERT INTO jobs (task, input) VALUES ('t', '{}')"))
        eventually(lambda: len(sent.jobs) == 1, "the relay was not woken")
    finally:
        running.stopping.set()
        enqueue()  # wakes it: it would listen for an hour
        running.stop(timeout=30)
        if running._listener is not None:  # a worker's ends with its process
            running._listener.close()


def test_jobs_survive_a_broker_that_is_away_and_one_that_forgets_everything(
    stack: Stack,
    environment: dict[str, str],
    producer: None,
    claude: SimulatedClaude,
    eventually: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The broker is down at first, then killed half-way and back without its messages."""
    folder: Path = tmp_path_factory.mktemp("broker")
    for path in (folder, folder.parent):
        path.chmod(0o711)  # as root, Valkey runs as an account that must get in
    broker = Valkey(folder / "valkey", durable=False)
    broker.start()
    broker.kill()
    claude.configure(latency=0.05)
    given = environment | {
        "REDIS_URL": broker.url,
        "CLAUDE_JOBS_CONCURRENCY": "4",
        "CLAUDE_JOBS_POLL_SECONDS": "0.2",
        "CLAUDE_JOBS_REDISPATCH_SECONDS": "1",
    }
    command = WORKER_COMMAND.format(name="forgotten", app="worker").split()

    with Worker(command, given, stack.logs / "forgotten.log") as worker:
        for number in range(40):
            enqueue(number)
        eventually(lambda: "Cannot connect" in worker.log_text(), "the outage was not logged")
        broker.start()
        try:
            eventually(lambda: states().get("succeeded", 0) >= 5, "nothing ran")
            broker.kill()
            broker.start()
            eventually(lambda: states() == {"succeeded": 40}, "not every job succeeded", 60)
        finally:
            worker.stop()
            broker.stop()

    assert len(claude.ledger()) == 40
