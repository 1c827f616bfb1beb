"""Posting alerts to a webhook: in a thread of its own, with retries that Postgres keeps.

The body is what Slack's incoming webhooks expect (`text`), with the same as fields for programs
(`alert`). An alert may arrive twice – the answer was lost, the worker died before it noted it –
and then bears the same `Idempotency-Key`. Redirects are not followed: an alert goes where the
setting says, and nowhere else.
"""

from __future__ import annotations

import html
import http.client
import json
import random
import socket
import threading
import urllib.request
from base64 import b64encode
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

import structlog

from worker.engine.loops import Loop
from worker.storage import deliveries
from worker.storage.deliveries import Delivery
from worker.storage.engine import transaction

log = structlog.get_logger(__name__)

_INTERVAL = 2.0
#: Seconds for the whole exchange. Below `deliveries.FIRST_PAUSE`, so that nobody else tries yet.
_TIMEOUT = 10.0


class NotDelivered(Exception):
    """Why the webhook did not take an alert: never with its URL, which is a secret."""


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
    """Post an alert; any 2xx will do, and its body is not read.

    A name and password in the URL become basic auth. Proxies are those of the environment, as
    for the calls to Claude.

    Raises:
        NotDelivered: the webhook could not be reached, did not answer in time, or refused.
    """
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "claude-jobs",
        "Idempotency-Key": str(delivery.id),
    }
    target, login = _without_login(url)
    if login:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    body = json.dumps(payload(delivery)).encode()
    request = urllib.request.Request(target, body, headers, method="POST")  # noqa: S310 – checked
    connections = _Connections()
    opener = urllib.request.build_opener(connections, _NoRedirects)
    timer = threading.Timer(_TIMEOUT, connections.shut_down)
    timer.daemon = True
    timer.start()
    failure = None
    try:
        opener.open(request, timeout=_TIMEOUT).close()
    except HTTPError as error:
        error.close()
        failure = f"HTTP {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        failure = _reason(error)
    finally:
        timer.cancel()
    # A shutdown may look like the end of an answer, whether good or bad; the socket's own timeout
    # may come a moment before it.
    if connections.timed_out or failure == TimeoutError.__name__:
        failure = f"no answer within {_TIMEOUT:g} s"
    if failure is not None:
        raise NotDelivered(failure)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class _Connections(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Keeps hold of the connection, so that an exchange which drips on for ever can be ended.

    A socket's timeout bounds the wait for the next byte, not for the last one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.timed_out = False
        self._connection: http.client.HTTPConnection | None = None

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect_tls, req)

    def shut_down(self) -> None:
        """End the exchange, from another thread."""
        self.timed_out = True
        if self._connection is not None and self._connection.sock is not None:
            # Not SSLSocket's own shutdown, which takes the TLS layer away under the reader.
            with suppress(OSError):
                socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)

    def _connect(self, host: str, **options: Any) -> http.client.HTTPConnection:
        self._connection = http.client.HTTPConnection(host, **options)
        return self._connection

    def _connect_tls(self, host: str, **options: Any) -> http.client.HTTPConnection:
        self._connection = http.client.HTTPSConnection(host, **options)
        return self._connection


def _without_login(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl(), unquote(login)


def _reason(error: Exception) -> str:
    """An error in words that cannot quote the URL: its type, and what the system says."""
    cause = error.reason if isinstance(error, URLError) else error
    said = cause.strerror if isinstance(cause, OSError) and cause.strerror else ""
    return f"{type(cause).__name__}: {said}" if said else type(cause).__name__
