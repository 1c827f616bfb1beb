"""`python -m sandbox.claude`: serve until SIGTERM or Ctrl-C. The first line printed is the URL."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from functools import partial
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from sandbox.claude.batchchecks import MAX_BATCH_BYTES
from sandbox.claude.config import Config
from sandbox.claude.control import PREFIX, Control
from sandbox.claude.faults import Fault
from sandbox.claude.mixes import FAULT_MIXES, mix
from sandbox.claude.server import Server

PR_SET_PDEATHSIG = 1
BACKLOG = 4096
SHUTDOWN_TIMEOUT = 0.1
"""Seconds for replies under way; 0 would be without limit."""


def main() -> None:
    """Parse the command line and serve."""
    options = parser()
    args = options.parse_args()
    if args.die_with_parent:
        _die_with(args.die_with_parent)
    try:
        settings = {name: getattr(args, name) for name in Config.model_fields}
        given = {name: value for name, value in settings.items() if value is not None}
        server = Server(Config.model_validate(given), args.seed)
        server.faults.append(_mix(args.faults) if args.faults else ())
    except ValidationError as error:
        problem = error.errors()[0]
        path = ".".join(map(str, problem["loc"]))
        options.error(f"--{path.replace('_', '-')}: {problem['msg']}")
    except ValueError as error:
        options.error(str(error))
    # The ledger only grows: looking through it for garbage again and again would be for nothing.
    gc.set_threshold(100_000, 50, 1000)
    asyncio.run(serve(server, args.host, args.port))


def _mix(text: str) -> list[Fault]:
    name, _, rate = text.partition(":")
    return mix(name, float(rate)) if rate else mix(name)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None


def parser() -> argparse.ArgumentParser:
    """The options: every setting of `Config`, and how to serve."""
    options = argparse.ArgumentParser(
        prog="python -m sandbox.claude",
        description=__doc__,
        epilog="LIMITS and RAMP are JSON, as in "
        """--limits '{"*": {"requests": 50, "input_tokens": 40000, "output_tokens": 8000}}' and """
        """--ramp '{"seconds": 60, "factor": 2, "free_requests": 10}'.""",
    )
    add = options.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0 takes a free one (default)")
    add("--seed", type=int, default=0, help="decides what is generated, and what fails")
    add("--latency", type=float, help="seconds to the first token (default: 0)")
    add("--tokens-per-second", type=float, help="default: all at once")
    add("--chunk-tokens", type=int, help="per event of a stream (default: 8)")
    add("--thinking-tokens", type=int, help="thought before each reply (default: 0)")
    add("--api-key", help="the only key accepted (default: any)")
    add("--faults", metavar="MIX[:RATE]", help=f"{', '.join(FAULT_MIXES)}; rough:0.05 is 5 %%")
    add("--limits", type=_json, help="rate limits a minute, by model class (default: none)")
    add("--burst-seconds", type=float, help="of its limit that a bucket holds (default: 60)")
    add("--ramp", type=_json, help="how fast use may grow (default: any)")
    add("--overload", type=int, metavar="N", help="529 beyond N requests at a time")
    add("--spend-limit-usd", metavar="USD", help="400 once so much is billed")
    add("--cache-speed", type=float, help="how fast the prompt cache ages (default: 1)")
    add("--batch-seconds", type=float, help="that a batch takes (default: 0)")
    add("--batch-speed", type=float, help="how fast the batches' clock runs (default: 1)")
    add("--die-with-parent", type=int, metavar="PID", help="the parent's pid")
    return options


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
        web.BaseRequest, loop=asyncio.get_running_loop(), client_max_size=MAX_BATCH_BYTES
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
