"""Posting alerts to a webhook: in a thread of its own, with retries that Postgres keeps.

The body is what Slack's incoming webhooks expect (`text`), with the same as fields for programs
(`alert`). An alert may arrive twice – the answer was lost, the worker died before it noted it –
and then bears the same `Idempotency-Key`. Redirects are not followed: an alert goes where the
setting says, and nowhere else.
"""

from __future__ import annotations

import html
import json
import random
from typing import Any

import structlog

from worker.engine import outgoing
from worker.engine.loops import Loop
from worker.engine.outgoing import NotDelivered
from worker.storage import deliveries
from worker.storage.deliveries import Delivery
from worker.storage.engine import transaction

log = structlog.get_logger(__name__)

_INTERVAL = 2.0
#: Seconds for the whole exchange. Below `deliveries.FIRST_PAUSE`, so that nobody else tries yet.
_TIMEOUT = 10.0


class DeliveryLoop(Loop):
    """Posts alerts that are due, one after the other; every worker does, none does another's."""

    name = "alert delivery"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def step(self) -> float:
        with transaction() as connection:
            given_up = deliveries.give_up(connection)
            delivery = deliveries.claim_delivery(connection)
        for alert_id in given_up:
            log.error("alert given up: the webhook did not take it for a day", id=str(alert_id))
        if delivery is None:
            return _INTERVAL * random.uniform(0.7, 1.3)  # noqa: S311 – spreads the workers
        try:
            post(self._url, delivery)
        except NotDelivered as error:
            with transaction() as connection:
                deliveries.delivery_failed(connection, delivery.id, str(error))
            if delivery.attempt == 1:
                log.warning(
                    "alert not delivered, will retry", id=str(delivery.id), reason=str(error)
                )
        else:
            with transaction() as connection:
                deliveries.delivered(connection, delivery.id)
        return 0.0


def payload(delivery: Delivery) -> dict[str, Any]:
    """The JSON that is posted."""
    text = f"{delivery.kind} {delivery.subject}: {delivery.message}"
    return {
        "text": html.escape(text, quote=False),  # as Slack asks for: &, < and > alone
        "alert": {
            "id": str(delivery.id),
            "kind": delivery.kind,
            "subject": delivery.subject,
            "message": delivery.message,
            "details": delivery.details,
            "count": delivery.count,
            "first_at": delivery.first_at.isoformat(),
            "last_at": delivery.last_at.isoformat(),
        },
    }


def post(url: str, delivery: Delivery) -> None:
    """Post an alert. Proxies are those of the environment, as for the calls to Claude.

    Raises:
        NotDelivered: the webhook could not be reached, did not answer in time, or refused.
    """
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(delivery.id)}
    body = json.dumps(payload(delivery)).encode()
    outgoing.post(url, headers, body, timeout=_TIMEOUT)
