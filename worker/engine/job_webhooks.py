"""Posting to jobs' webhooks that they have ended, until it is taken, for a day.

A host or a service with a backlog does not hold up another one: see `webhook_queue` for what is
looked at, `DeliverySlots` for what is posted first. What is posted may arrive twice, when an answer
or a worker was lost: `webhook-id` is the same then.
"""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import structlog

from worker.engine import outgoing
from worker.engine.delivery_slots import DeliverySlots
from worker.engine.destination import addresses_of
from worker.engine.loops import Loop
from worker.engine.outgoing import NotDelivered
from worker.engine.registry import Registry
from worker.engine.signing import secrets_for, signatures
from worker.errors import ConfigurationError
from worker.settings import Settings
from worker.storage import webhook_queue, webhooks
from worker.storage.deliveries import FIRST_PAUSE, LONGEST_PAUSE
from worker.storage.engine import transaction
from worker.storage.webhook_queue import Ended

log = structlog.get_logger(__name__)

#: Seconds between two looks: with nothing to do, with something, and when a slot became free that
#: somebody waits for.
_INTERVAL, _WHILE_BUSY, _REFILL = 1.0, 0.1, 0.01
#: Seconds for one exchange; with a slow resolver before it, below `CLAIM_SECONDS`.
_TIMEOUT = 10.0
#: Deliveries of this process at once, and how many of them to one host.
_AT_ONCE, _PER_HOST = 32, 4
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
        self._slots = DeliverySlots(_AT_ONCE, _PER_HOST)
        self._resume: dict[str, str] = {}

    def step(self) -> float:
        self._slots.given_back.clear()
        with transaction() as connection:
            given_up = webhooks.give_up(connection)
            found = webhook_queue.look(
                connection,
                per_host=_PER_HOST,
                busy=self._slots.busy_hosts(),
                resume=self._resume,
            )
            chosen = self._slots.choose(found.due)
            claimed = webhook_queue.claim(connection, chosen, with_output=self._with_output)
        self._resume = found.resume
        for host, count in given_up.items():
            log.error("webhook given up: it was tried for a day", host=host, deliveries=count)
        for ended in claimed:
            self._begin(ended)
        if self._slots.busy_hosts() and self._slots.given_back.wait(_WHILE_BUSY):
            return _REFILL
        if found.due or found.resume or self._slots.taken:
            return _WHILE_BUSY
        return _INTERVAL * random.uniform(0.7, 1.3)  # noqa: S311 – spreads the workers

    def _begin(self, ended: Ended) -> None:
        # Not from an executor, whose threads a process waits for when it ends.
        thread = threading.Thread(target=self._post, args=[ended], name="webhook", daemon=True)
        self._slots.take(ended)
        try:
            thread.start()
        except RuntimeError:  # no more threads: it is due again when the claim is over
            self._slots.give_back(ended)
            raise

    def _post(self, ended: Ended) -> None:
        try:
            self.deliver(ended)
        except Exception as error:  # Postgres is away: it is due again when the claim is over
            log.warning("webhook's outcome not noted", id=str(ended.id), error=type(error).__name__)
        finally:
            self._slots.give_back(ended)

    def deliver(self, ended: Ended) -> None:
        """Post it once, and note what came of it."""
        try:
            status = self._send(ended)
        except NotDelivered as error:
            over = error.for_good or error.status == _GONE
            with transaction() as connection:
                webhooks.delivery_failed(
                    connection,
                    ended,
                    str(error),
                    status=error.status,
                    after=None if over else _pause(ended.attempt),
                )
            if ended.attempt == 1 or over:
                log.warning(
                    "webhook not delivered, given up"
                    if over
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
