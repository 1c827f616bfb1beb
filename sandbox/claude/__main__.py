"""`python -m sandbox.claude`: serve until SIGTERM or Ctrl-C. The first line printed is the URL."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import signal
import sys
from functools import partial

from aiohttp import web

from sandbox.claude.config import Config
from sandbox.claude.control import PREFIX, Control
from sandbox.claude.server import Server
from sandbox.claude.validate import MAX_BODY_BYTES

PR_SET_PDEATHSIG = 1
BACKLOG = 4096
SHUTDOWN_TIMEOUT = 0.1
"""Seconds for replies under way; 0 would be without limit."""


def main() -> None:
    """Parse the command line and serve."""
    args = _parser().parse_args()
    if args.die_with_parent:
        _die_with(args.die_with_parent)
    config = Config(
        latency=args.latency,
        tokens_per_second=args.tokens_per_second,
        chunk_tokens=args.chunk_tokens,
        thinking_tokens=args.thinking_tokens,
        api_key=args.api_key,
    )
    # The ledger only grows: looking through it for garbage again and again would be for nothing.
    gc.set_threshold(100_000, 50, 1000)
    asyncio.run(serve(Server(config, args.seed), args.host, args.port))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox.claude", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--seed", type=int, default=0, help="decides what is generated")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds to the first token")
    parser.add_argument("--tokens-per-second", type=float, help="default: all at once")
    parser.add_argument("--chunk-tokens", type=int, default=8, help="per event of a stream")
    parser.add_argument("--thinking-tokens", type=int, default=0, help="thought before each reply")
    parser.add_argument("--api-key", help="the only key accepted (default: any)")
    parser.add_argument("--die-with-parent", type=int, metavar="PID", help="the parent's pid")
    return parser


async def serve(server: Server, host: str, port: int) -> None:
    """Listen, print the URL, and return after SIGTERM or SIGINT."""
    control = Control(server)

    async def dispatch(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith(PREFIX):
            return await control.handle(request)
        return await server.handle(request)

    # Neither router nor middleware: the server is the peer in benchmarks, so it has to be lean.
    # A handler is cancelled when its client goes away, which is how the ledger learns of it.
    request_factory = partial(
        web.BaseRequest, loop=asyncio.get_running_loop(), client_max_size=MAX_BODY_BYTES
    )
    web_server = web.Server(
        dispatch, access_log=None, handler_cancellation=True, request_factory=request_factory
    )
    runner = web.ServerRunner(web_server, shutdown_timeout=SHUTDOWN_TIMEOUT)
    await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=BACKLOG)
    await site.start()
    print(f"http://{host}:{runner.addresses[0][1]}", flush=True)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    await runner.cleanup()


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above took effect
        sys.exit(1)


if __name__ == "__main__":
    main()
