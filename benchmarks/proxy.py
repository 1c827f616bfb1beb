"""`python -m benchmarks.proxy MILLISECONDS HOST:PORT …`: slower ways to servers.

The ports to use instead are printed. What a client sends arrives that much later, and what the
server answers at once: a round trip takes one delay longer.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.services import Fleet


class _Server(asyncio.Protocol):
    """The far side: what comes goes to the client at once."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.close()


class _Client(asyncio.Protocol):
    """The near side: what comes is kept for a while."""

    def __init__(self, delay: float, host: str, port: int) -> None:
        self._delay, self._host, self._port = delay, host, port
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        connecting = self._loop.create_connection(
            lambda: _Server(transport), self._host, self._port
        )
        self._opening = asyncio.ensure_future(connecting)

    def data_received(self, data: bytes) -> None:
        # Equal delays are served in the order in which they were asked for.
        self._loop.call_later(self._delay, self._send, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._opening.add_done_callback(_close)

    def _send(self, data: bytes) -> None:
        if self._opening.done():
            self._opening.result()[0].write(data)
        else:
            self._opening.add_done_callback(lambda opened: opened.result()[0].write(data))


def _close(opened: asyncio.Future[tuple[asyncio.Transport, _Server]]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result()[0].close()


async def _serve(delay: float, targets: list[tuple[str, int]]) -> None:
    loop, ports = asyncio.get_running_loop(), []
    for host, port in targets:
        server = await loop.create_server(partial(_Client, delay, host, port), "127.0.0.1", 0)
        ports.append(str(server.sockets[0].getsockname()[1]))
    print("ports", *ports, flush=True)
    await asyncio.Event().wait()


@contextmanager
def slower(
    environment: Mapping[str, str], milliseconds: float, log: Path
) -> Iterator[dict[str, str]]:
    """What to set so that Postgres and Redis are reached by the slow way; nothing for no delay."""
    if not milliseconds:
        yield {}
        return
    names = ("DATABASE_URL", "REDIS_URL")
    urls = {name: urlsplit(environment[name]) for name in names}
    targets = [f"{url.hostname}:{url.port}" for url in urls.values()]
    command = ["python", "-m", "benchmarks.proxy", str(milliseconds), *targets]
    log.unlink(missing_ok=True)
    with Fleet(command, {}, log) as proxy:
        proxy.wait_ready(lambda: "ports" in proxy.log_text())
        ports = proxy.log_text().split()[1:]
        yield {
            name: url.geturl().replace(f":{url.port}", f":{port}")
            for (name, url), port in zip(urls.items(), ports, strict=True)
        }


if __name__ == "__main__":
    _delay, *_targets = sys.argv[1:]
    _named = [target.rsplit(":", 1) for target in _targets]
    asyncio.run(_serve(float(_delay) / 1000, [(host, int(port)) for host, port in _named]))
