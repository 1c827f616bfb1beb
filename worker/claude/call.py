"""One HTTP request to Claude, answered whole or streamed; both ways give the same reply."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx2

from worker.claude.clients import CallClient, ClientStack
from worker.claude.failures import aborted, classify
from worker.claude.incoming import Incoming
from worker.claude.inflight import CallControl
from worker.claude.reply import Reply, Tokens, read_message
from worker.claude.request import Request

#: A connection that takes longer is not going to happen.
_CONNECT_SECONDS = 10.0

#: Replies that may be longer are streamed: whole, they could take more than ten minutes, and
#: networks drop connections that are silent for so long. The bound is the SDK's own, from
#: `_calculate_nonstreaming_timeout`: 128,000 tokens an hour.
MOST_TOKENS_UNSTREAMED = 21_333

#: How long the end of a stream may take once the message is complete.
_END_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: for the whole reply, by the wall clock, and – in a stream that
    has begun – for the next byte."""

    timeout: float
    stall: float


def call_claude(
    clients: ClientStack,
    request: Request,
    patience: Patience,
    control: CallControl,
    *,
    stream: bool = False,
    on_text: Callable[[str], None] = lambda text: None,
    on_begin: Callable[[Tokens], None] = lambda tokens: None,
) -> Reply:
    """Send `request` once and return the reply, whatever its text says.

    `control` lets other threads end the call. The reply is streamed if asked for, and when it may
    be too long to come in one piece. Of a streamed one, `on_begin` gets the tokens of its input,
    and `on_text` each piece of the text as it arrives; both must neither wait nor raise.

    Raises:
        CallFailed: there is no reply, classified; `aborted` says why if it was ended by us, and
            `partial` holds what had arrived.
    """
    stream = stream or request.max_tokens > MOST_TOKENS_UNSTREAMED
    incoming = Incoming(on_text, on_begin) if stream else None
    started = time.monotonic()
    if control.reason is not None:
        raise aborted(control.reason, 0)
    try:
        with clients.checkout() as client, control.using(client, patience.timeout):
            if incoming is None:
                return _whole(client, request, patience, started)
            return _streamed(client, request, patience, control, incoming)
    except Exception as error:
        partial = None if incoming is None else incoming.reply()
        if control.reason is not None:
            raise aborted(control.reason, _since(started), partial) from None
        raise classify(error, _since(started), partial) from None


def _whole(client: CallClient, request: Request, patience: Patience, started: float) -> Reply:
    response = client.sdk.messages.with_raw_response.create(
        **request.parameters(), timeout=_timeout(patience)
    )
    body = response.http_response.content
    return read_message(body, headers=_lower(response.headers), latency_ms=_since(started))


def _streamed(
    client: CallClient,
    request: Request,
    patience: Patience,
    control: CallControl,
    incoming: Incoming,
) -> Reply:
    with client.sdk.messages.with_streaming_response.create(
        **request.parameters(), stream=True, timeout=_timeout(patience)
    ) as response:
        incoming.begin(_lower(response.headers))
        control.expect_more(patience.stall)
        try:
            for chunk in response.http_response.iter_bytes():
                incoming.feed(chunk)
                # Read to the end, or the connection cannot be used again.
                control.expect_more(_END_SECONDS if incoming.complete else patience.stall)
        except Exception:
            if not incoming.complete:
                raise
        reply = incoming.reply()
        if reply is None or not incoming.complete:
            raise httpx2.RemoteProtocolError("the stream ended before the message did")
        control.forgive()
        return reply


def _timeout(patience: Patience) -> httpx2.Timeout:
    connect = min(patience.timeout, _CONNECT_SECONDS)
    return httpx2.Timeout(patience.timeout, connect=connect)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {key.lower(): value for key, value in headers.items()}


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
