"""Posting to jobs' webhooks that they have ended, until it is taken, for a day.

Of one host a process posts four at a time, of all sixteen; a host that hangs takes no more than its
part. What is posted may arrive twice, when an answer or a worker was lost: `webhook-id` is the same
then.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from typing import Any

import structlog

from worker.engine import outgoing
from worker.engine.destination import addresses_of
from worker.engine.loops import Loop
from worker.engine.outgoing import NotDelivered
from worker.engine.registry import Registry
from worker.engine.signing import secrets_for, signatures
from worker.errors import ConfigurationError
from worker.settings import Settings
from worker.storage import webhooks
from worker.storage.deliveries import FIRST_PAUSE, LONGEST_PAUSE
from worker.storage.engine import transaction
from worker.storage.webhooks import Ended

log = structlog.get_logger(__name__)

_INTERVAL, _WHILE_BUSY = 1.0, 0.1
#: Seconds for one exchange; with a slow resolver before it, below `webhooks.CLAIM_SECONDS`.
_TIMEOUT = 10.0
#: Deliveries of this process at once, and how many of them to one host.
_AT_ONCE, _PER_HOST = 16, 4
_GONE = 410


class WebhookLoop(Loop):
    """Posts the ends of jobs that are due; every worker does, none does another's."""

    name = "webhooks"

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        secret = settings.webhook_secret
        self._secrets = secret.get_secret_value() if secret else ""
        self._allow_private = settings.webhook_allow_private
        self._with_output = settings.webhook_output
        self._in_flight: Counter[str] = Counter()
        self._lock = threading.Lock()

    def step(self) -> float:
        with self._lock:
            free = _AT_ONCE - self._in_flight.total()
            busy = [host for host, count in self._in_flight.items() if count >= _PER_HOST]
        if not free:
            return _WHILE_BUSY
        with transaction() as connection:
            given_up = webhooks.give_up(connection)
            due = webhooks.claim_deliveries(
                connection,
                limit=free,
                per_host=_PER_HOST,
                busy=busy,
                with_output=self._with_output,
            )
        for row in given_up:
            log.error(
                "webhook given up: it was tried for a day",
                id=str(row["id"]),
                job_id=str(row["job_id"]),
                host=row["host"],
            )
        for ended in due:
            # Not from an executor, whose threads a process waits for when it ends.
            thread = threading.Thread(target=self._post, args=[ended], name="webhook", daemon=True)
            with self._lock:
                thread.start()  # which may fail; `_post` waits for the lock before it counts down
                self._in_flight[ended.host] += 1
        return _WHILE_BUSY if due else _INTERVAL * random.uniform(0.7, 1.3)  # noqa: S311

    def _post(self, ended: Ended) -> None:
        try:
            self.deliver(ended)
        except Exception as error:  # Postgres is away: it is due again when the claim is over
            log.warning("webhook's outcome not noted", id=str(ended.id), error=type(error).__name__)
        finally:
            with self._lock:
                self._in_flight[ended.host] -= 1
                if not self._in_flight[ended.host]:
                    del self._in_flight[ended.host]

    def deliver(self, ended: Ended) -> None:
        """Post it once, and note what came of it."""
        try:
            status = self._send(ended)
        except NotDelivered as error:
            gone = error.status == _GONE
            with transaction() as connection:
                webhooks.delivery_failed(
                    connection,
                    ended,
                    str(error),
                    status=error.status,
                    after=None if gone else _pause(ended.attempt),
                )
            if ended.attempt == 1 or gone:
                log.warning(
                    "webhook not delivered, given up"
                    if gone
                    else "webhook not delivered, will retry",
                    id=str(ended.id),
                    job_id=str(ended.job_id),
                    host=ended.host,
                    reason=str(error),
                )
        else:
            with transaction() as connection:
                webhooks.delivered(connection, ended.id, status)

    def _send(self, ended: Ended) -> int:
        if not self._secrets:
            raise NotDelivered("CLAUDE_JOBS_WEBHOOK_SECRET is not set")
        addresses = addresses_of(ended.url, allow_private=self._allow_private)
        body = payload(ended, with_output=self._with_output)
        message_id, timestamp = f"msg_{ended.id.hex}", int(time.time())
        secrets = secrets_for(self._secrets, ended.service)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(secrets, message_id, timestamp, body),
        }
        return outgoing.post(ended.url, headers, body, timeout=_TIMEOUT, addresses=addresses)


def check_webhooks(settings: Settings, registry: Registry) -> None:
    """Make sure that what tasks promise to post can be signed.

    Raises:
        ConfigurationError: it cannot; the message names what is not set.
    """
    if settings.webhook_secret is None:
        for task in registry.values():
            if task.webhook_url is not None:
                raise ConfigurationError(
                    f"CLAUDE_JOBS_WEBHOOK_SECRET is not set, and the task {task.name} has a webhook"
                )


def payload(ended: Ended, *, with_output: bool) -> bytes:
    """The JSON that is posted."""
    data: dict[str, Any] = {
        "id": str(ended.job_id),
        "task": ended.task,
        "state": ended.state,
        "finished_at": ended.finished_at.isoformat(),
    }
    if with_output:
        data["output"] = ended.output
    document = {
        "type": f"job.{ended.state}",
        "timestamp": ended.finished_at.isoformat(),
        "data": data,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _pause(attempt: int) -> float:
    """Seconds until the next attempt: 15, 30, 60 … an hour; spread, so that no herd comes back."""
    doubled: float = FIRST_PAUSE * 2.0 ** min(attempt - 1, 30)
    return min(LONGEST_PAUSE, doubled) * random.uniform(0.8, 1.2)  # noqa: S311
