"""`make up`: the whole stack until Ctrl-C."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
from base64 import b64encode
from contextlib import suppress

from rich.console import Console

from sandbox import samples
from sandbox.account import SandboxError
from sandbox.claude.client import SimulatedClaude
from sandbox.stack import DATA, Stack, published, servers
from worker.errors import ClaudeJobsError
from worker.storage.api_keys import create_key, list_keys, revoke_key
from worker.storage.engine import build_engine, transaction

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Run until SIGINT or SIGTERM, or until one of the programs dies; returns the exit code."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    # With a key, calls go to the real Claude and cost money: the line below says which it is.
    claude = None
    if not os.environ.get("ANTHROPIC_API_KEY"):
        claude = SimulatedClaude(latency=1.0, tokens_per_second=150)
    try:
        with servers(DATA, claude=claude) as stack:
            stack.environment.update(_webhooks())
            with published(stack.environment):
                stack.start_worker()
                stack.start_flower()
                stack.start_api(port=_api_port(), **_for_the_page(stack))
                _announce(stack, _new_key(stack))
                return _watch(stack, stop)
    except (SandboxError, ClaudeJobsError) as error:
        sys.stderr.write(f"claude-jobs: {error}\n")
        return 1


def _webhooks() -> dict[str, str]:
    """What jobs' webhooks are signed with; here they may point to this machine."""
    return {
        "CLAUDE_JOBS_WEBHOOK_SECRET": f"whsec_{b64encode(secrets.token_bytes(32)).decode()}",
        "CLAUDE_JOBS_WEBHOOK_ALLOW_PRIVATE": "1",
    }


def _for_the_page(stack: Stack) -> dict[str, str]:
    """What the gateway's page links to, and offers to load."""
    return {
        "CLAUDE_JOBS_API_FLOWER_URL": stack.flower_url,
        "CLAUDE_JOBS_API_SAMPLES_DIR": str(samples.FOLDER),
    }


def _new_key(stack: Stack) -> str:
    """A key for whoever plays with it; those of earlier runs end."""
    engine = build_engine(stack.postgres.url)
    try:
        with transaction(engine) as connection:
            for old in list_keys(connection, "sandbox"):
                revoke_key(connection, old["id"])
            return create_key(connection, "sandbox", by="make up")[1]
    finally:
        engine.dispose()


def _api_port() -> int:
    """The usual one, if it is free."""
    port = int(os.environ.get("CLAUDE_JOBS_API_PORT", "8000"))
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return port
    return 0


def _announce(stack: Stack, key: str) -> None:
    login = stack.environment["FLOWER_BASIC_AUTH"]
    where = (
        stack.claude.url + " (simulated)" if stack.claude else "the real API, billed to your key"
    )
    console.print(
        f"\n[bold]claude-jobs is up[/]\n"
        f"  Flower    {stack.flower_url}   login {login}\n"
        f"  page, API {stack.api_url}   key {key} (until it stops)\n"
        f"  Claude    {where}\n"
        f"  Postgres  {stack.postgres.url}\n"
        f"  Valkey    {stack.valkey.url}\n"
        f"  logs      {stack.logs}\n\n"
        "In another terminal, from this folder:\n"
        "  .venv/bin/claude-jobs enqueue summarize_text -i text='…' -i max_words=50 "
        "-i audience=everybody --wait\n"
        "  .venv/bin/claude-jobs list\n"
        f"  curl '{stack.api_url}/v1/jobs?wait=30' -H 'Authorization: Bearer {key}' --json \\\n"
        """    '{"task": "summarize_text", "input": {"text": "…", "max_words": 50, """
        """"audience": "everybody"}}'\n\n"""
        "Ctrl-C stops everything; the data stays in .sandbox/"
    )


def _watch(stack: Stack, stop: threading.Event) -> int:
    while not stop.wait(1.0):
        for name, service in stack.services.items():
            if not service.running:
                console.print(f"[red]{name} exited:[/]\n{service.log_tail()}")
                return 1
    console.print("\nstopping …")
    return 0


if __name__ == "__main__":
    sys.exit(main())
