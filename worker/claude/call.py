"""One HTTP request to Claude."""

from __future__ import annotations

import time

import httpx2

from worker.claude.clients import ClientStack
from worker.claude.failures import aborted, classify
from worker.claude.inflight import CallControl
from worker.claude.reply import Reply, read_message
from worker.claude.request import Request

#: A connection that takes longer is not going to happen.
_CONNECT_SECONDS = 10.0


def call_claude(
    clients: ClientStack, request: Request, *, timeout: float, control: CallControl
) -> Reply:
    """Send `request` once and return the reply, whatever its text says.

    `timeout` is the wall-clock limit in seconds. `control` lets other threads end the call.

    Raises:
        CallFailed: there is no reply, classified; `aborted` says why if it was ended by us.
    """
    started = time.monotonic()
    if control.reason is not None:
        raise aborted(control.reason, 0)
    try:
        with clients.checkout() as client, control.using(client, timeout):
            response = client.sdk.messages.with_raw_response.create(
                **request.parameters(),
                timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            )
            body = response.http_response.content
        return read_message(
            body,
            headers={key.lower(): value for key, value in response.headers.items()},
            latency_ms=_since(started),
        )
    except Exception as error:
        if control.reason is not None:
            raise aborted(control.reason, _since(started)) from None
        raise classify(error, _since(started)) from None


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
