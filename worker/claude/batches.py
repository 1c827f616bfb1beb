"""Message Batches on the wire: create, look, list, cancel, and read the results as they come.

The endpoints are `/v1/messages/batches` and what is under it, as the SDK's `messages.batches` has
them; its methods are not used where they would hold a whole batch in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import httpx2
from anthropic._decoders.jsonl import JSONLDecoder
from pydantic import BaseModel, ValidationError

from worker.claude.batch_wire import RemoteBatch, Wire
from worker.claude.clients import CallClient, ClientStack
from worker.claude.failures import CallFailed, aborted, classify
from worker.claude.inflight import CallControl, Watchdog
from worker.claude.reply import MalformedReply

_PATH = "/v1/messages/batches"
#: Seconds that a small request may take, by the wall clock.
_ASK_SECONDS = 60.0
#: The results may be hundreds of megabytes, and whoever reads them settles jobs in between; only
#: silence counts.
_SILENCE_SECONDS = 120.0
_PAGE = 100
#: No line is longer: it holds one reply.
_LONGEST_LINE = 64 * 1024 * 1024

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class _Page(Wire):
    data: list[RemoteBatch]
    has_more: bool = False
    last_id: str | None = None


class NotCreated(Exception):
    """A batch was not created, for certain: it was refused, or never reached the API."""

    def __init__(self, failed: CallFailed) -> None:
        super().__init__(failed.failure.summary)
        self.failed = failed


class BatchClient:
    """The Batches API; safe to use from any thread."""

    def __init__(self, clients: ClientStack, watchdog: Watchdog) -> None:
        self._clients = clients
        self._watchdog = watchdog

    def create(self, requests: Sequence[bytes], seconds: float) -> RemoteBatch:
        """Submit a batch; each request is JSON with its `custom_id` and `params`.

        It takes `seconds` by the wall clock at most: what the API has not received by then it will
        not.

        Raises:
            NotCreated: there is no such batch.
            CallFailed: nobody knows; the batch may exist.
        """
        length = len(_HEAD) + sum(map(len, requests)) + max(0, len(requests) - 1) + len(_TAIL)
        headers = {"content-type": "application/json", "content-length": str(length)}

        def send(client: CallClient) -> RemoteBatch:
            response = client.sdk.post(
                _PATH,
                cast_to=httpx2.Response,
                content=_body(requests),
                options={"headers": headers, "timeout": seconds},
            )
            return _parsed(RemoteBatch, response)

        return self._call(send, seconds, creating=True)

    def retrieve(self, batch_id: str) -> RemoteBatch:
        """The batch as it stands.

        Raises:
            CallFailed: with status 404 where there is no such batch – or not yet, everywhere.
        """
        return self._ask(partial(_get, model=RemoteBatch, path=f"{_PATH}/{batch_id}"))

    def created_since(self, moment: datetime) -> list[RemoteBatch]:
        """All batches that were created then or later, the newest first.

        Raises:
            CallFailed: the list could not be read to its end.
        """
        found: list[RemoteBatch] = []
        after: str | None = None
        while True:
            query = f"limit={_PAGE}" + (f"&after_id={after}" if after else "")
            page = self._ask(partial(_get, model=_Page, path=f"{_PATH}?{query}"))
            found += [each for each in page.data if each.created_at >= moment]
            if not page.has_more or not page.data or page.data[-1].created_at < moment:
                return found
            after = page.last_id

    def cancel(self, batch_id: str) -> RemoteBatch:
        """Ask for a batch to end; what was processed by then stays.

        Raises:
            CallFailed: with status 400 where it has ended already.
        """

        def send(client: CallClient) -> RemoteBatch:
            response = client.sdk.post(f"{_PATH}/{batch_id}/cancel", cast_to=httpx2.Response)
            return _parsed(RemoteBatch, response)

        return self._ask(send)

    @contextmanager
    def results(self, batch_id: str) -> Iterator[Iterator[bytes]]:
        """The lines of a batch's results, as they arrive: see `parse_line`.

        Raises:
            CallFailed: they cannot be read; inside the block as well, where they break off.
        """
        try:
            with self._clients.checkout() as client:
                # By the documented path, not by `results_url` as the SDK's `results` has it: that
                # one leads past a gateway that ANTHROPIC_BASE_URL may name.
                decoder = client.sdk.get(
                    f"{_PATH}/{batch_id}/results",
                    cast_to=JSONLDecoder[Any],
                    options={
                        "headers": {"accept": "application/binary"},
                        "timeout": httpx2.Timeout(_SILENCE_SECONDS, connect=10.0),
                    },
                    stream=True,
                    stream_cls=None,
                )
                try:
                    yield _lines(decoder.http_response)
                finally:
                    decoder.close()
        except Exception as error:
            raise classify(error) from None

    def _ask(self, send: Callable[[CallClient], T]) -> T:
        return self._call(send, _ASK_SECONDS)

    def _call(
        self, send: Callable[[CallClient], T], seconds: float, *, creating: bool = False
    ) -> T:
        control = CallControl()
        try:
            with (
                self._clients.checkout() as client,
                self._watchdog.watching(control),
                control.using(client, seconds),
            ):
                return send(client)
        except Exception as error:
            failed = aborted(control.reason, 0) if control.reason else classify(error)
            if creating and control.reason is None and _never_landed(error, failed):
                raise NotCreated(failed) from None
            raise failed from None


_HEAD, _TAIL = b'{"requests":[', b"]}"


def _body(requests: Sequence[bytes]) -> Iterator[bytes]:
    yield _HEAD
    for index, request in enumerate(requests):
        yield b"," + request if index else request
    yield _TAIL


def _get(client: CallClient, model: type[M], path: str) -> M:
    return _parsed(model, client.sdk.get(path, cast_to=httpx2.Response))


def _parsed(model: type[M], response: httpx2.Response) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        how = f"no batch: {error.error_count()} problems"
        raise MalformedReply(how, response.headers.get("request-id")) from None


def _lines(response: httpx2.Response) -> Iterator[bytes]:
    """Line by line, however the chunks are cut."""
    started: list[bytes] = []
    length = 0
    for chunk in response.iter_bytes():
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            yield b"".join((*started, part))
            started, length = [], 0
        if rest:
            started.append(rest)
            length += len(rest)
            if length > _LONGEST_LINE:
                raise MalformedReply("a line without an end", response.headers.get("request-id"))
    if started:
        yield b"".join(started)


def _never_landed(error: Exception, failed: CallFailed) -> bool:
    """Whether a request to create a batch has created none, for certain.

    Refused by status: 408 and 409 say nothing of the kind, and behind a 5xx the batch may exist;
    a 529 is turned away at the door. Never sent: there was no connection.
    """
    status = failed.failure.status
    if status is not None:
        return status == 529 or (400 <= status < 500 and status not in (408, 409))
    causes = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
    return isinstance(error.__cause__ or error, causes)
