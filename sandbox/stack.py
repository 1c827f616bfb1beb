"""The whole system on one machine: Postgres, Valkey, Claude (simulated), workers and Flower."""

from __future__ import annotations

import os
import secrets
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.account import SandboxError
from sandbox.claude.client import SimulatedClaude
from sandbox.postgres import Postgres
from sandbox.process import free_port
from sandbox.service import PROJECT, Service
from sandbox.valkey import Valkey
from worker.settings import RUNTIME_FILE, get_settings
from worker.storage.engine import build_engine, get_engine, transaction
from worker.storage.schema import migrate

#: Where the sandbox keeps its data between runs.
DATA = PROJECT / RUNTIME_FILE.parent
RUNTIME = PROJECT / RUNTIME_FILE

WORKER_COMMAND = (
    "python -m celery -A {app} worker --without-gossip --without-mingle --hostname={name}@%h"
)
FLOWER_COMMAND = "python -m celery -A worker flower --port={port}"
API_COMMAND = "python -m worker.cli api"


@dataclass
class Stack:
    """What runs, and how to reach it."""

    environment: dict[str, str]
    postgres: Postgres
    valkey: Valkey
    claude: SimulatedClaude | None
    logs: Path
    services: dict[str, Service] = field(default_factory=dict)
    flower_url: str = ""
    api_url: str = ""

    def start_worker(self, name: str = "worker", app: str = "worker", **extra: str) -> Service:
        """Start one more worker process, of another Celery `app` if need be, until it consumes."""
        service = Service(
            WORKER_COMMAND.format(name=name, app=app).split(),
            self.environment | extra,
            self.logs / f"{name}.log",
        )
        service.start().wait_ready(lambda: " ready." in service.log_text())
        self.services[name] = service
        return service

    def start_flower(self) -> Service:
        """Start Flower and wait until it answers."""
        port = free_port()
        service = Service(
            FLOWER_COMMAND.format(port=port).split(), self.environment, self.logs / "flower.log"
        )
        self.flower_url = f"http://127.0.0.1:{port}"
        service.start().wait_ready(lambda: self._answers(f"{self.flower_url}/healthcheck"))
        self.services["flower"] = service
        return service

    def start_api(self, name: str = "api", port: int = 0, **extra: str) -> Service:
        """Start the HTTP gateway and wait until it can serve; port 0 is any that is free."""
        port = port or free_port()
        self.api_url = url = f"http://127.0.0.1:{port}"
        environment = self.environment | {"CLAUDE_JOBS_API_PORT": str(port)} | extra
        service = Service(API_COMMAND.split(), environment, self.logs / f"{name}.log")
        service.start().wait_ready(lambda: self._answers(f"{url}/readyz"))
        self.services[name] = service
        return service

    def flower(self, path: str) -> bytes:
        """GET a page or an API answer of Flower, logged in."""
        login = b64encode(self.environment["FLOWER_BASIC_AUTH"].encode()).decode()
        request = urllib.request.Request(  # noqa: S310 – our own loopback URL
            f"{self.flower_url}{path}", headers={"Authorization": f"Basic {login}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body

    def _answers(self, url: str) -> bool:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
        return False


@contextmanager
def servers(
    folder: Path, *, durable: bool = True, claude: SimulatedClaude | None = None
) -> Iterator[Stack]:
    """Postgres (migrated), Valkey and the simulated Claude, stopped again at the end.

    Without `claude`, calls go to the real one, with the `ANTHROPIC_*` of this environment.

    Raises:
        SandboxError: one of them cannot run here, or another sandbox uses `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    with ExitStack() as running:
        postgres = running.enter_context(Postgres(folder / "postgres", durable=durable))
        valkey = running.enter_context(Valkey(folder / "valkey", durable=durable))
        if claude is not None:
            running.enter_context(claude)
        environment = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "FLOWER_BASIC_AUTH": f"admin:{secrets.token_urlsafe(9)}",
            **_claude_variables(claude),
        }
        engine = build_engine(postgres.url)
        with transaction(engine) as connection:
            migrate(connection)
        engine.dispose()
        stack = Stack(environment, postgres, valkey, claude, logs)
        try:
            yield stack
        finally:
            for service in stack.services.values():
                if service.running and service.process is not None:
                    service.process.terminate()
            for service in stack.services.values():
                service.stop()


def _claude_variables(claude: SimulatedClaude | None) -> Mapping[str, str]:
    if claude is not None:
        return {"ANTHROPIC_BASE_URL": claude.url, "ANTHROPIC_API_KEY": "simulated"}
    names = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
    return {name: os.environ[name] for name in names if name in os.environ}


@contextmanager
def published(environment: Mapping[str, str], path: Path = RUNTIME) -> Iterator[None]:
    """Let other terminals' `claude-jobs` find the sandbox, for as long as it runs."""
    text = "".join(f"{name}='{value}'\n" for name, value in environment.items())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def use_here(environment: Mapping[str, str]) -> None:
    """Make this process a producer of the sandbox."""
    os.environ.update(environment)
    get_settings.cache_clear()
    get_engine.cache_clear()


__all__ = ["DATA", "RUNTIME", "SandboxError", "Stack", "published", "servers", "use_here"]
