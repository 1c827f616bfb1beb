"""`Preloaded`: a worker that is forked from a process in which the libraries are imported already.

The import of the SDK, Celery and SQLAlchemy is most of what the start of a worker costs: 3 s of
CPU of 3.5. The tests start some seventy workers, so a process of ours (`python -m tests.preloaded`)
imports the libraries once, and each worker is a fork of it that then does what `python -m celery …`
does: its own session, environment and log, our own modules imported anew. Nothing of ours is loaded
in the parent, and it has no second thread. The gateway is started in the same way.

The long version (`make chaos`) and tests/acceptance/test_services.py start their workers cold.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Self

from sandbox.process import die_with_parent
from sandbox.service import PROJECT, Service

#: What a worker has imported when it is ready, as far as it is not ours; the rest follows from it.
LIBRARIES = (
    "alembic.command",
    "anthropic",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.concurrency.thread",
    "celery.events.dispatcher",
    "celery.worker.consumer",
    "celery.worker.worker",
    "fastapi",
    "flower.command",
    "genai_prices",
    "hiredis",
    "httptools",
    "jinja2",
    "jiter",
    "kombu.transport.redis",
    "psycopg_pool",
    "pydantic_settings",
    "redis",
    "redis.asyncio",
    "rich.console",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
    "structlog",
    "typer",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.supervisors",
    "uvloop",
)


class Fork:
    """A child of the preloaded process, with what we use of `subprocess.Popen`."""

    def __init__(self, parent: Parent, order: dict[str, Any]) -> None:
        self._parent = parent
        self.pid: int = parent.ask(order)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._parent.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a preloaded worker", timeout or 0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:  # so that the id is still its own
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Parent:
    """Our end of the preloaded process, which dies with us and takes its forks along."""

    _of_this_process: Parent | None = None

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())],
                cwd=PROJECT,
                env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
                | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGKILL),  # noqa: PLW1509 - two system calls
            )
        self._wire = ours.makefile("rw")
        ours.close()
        self._turn = threading.Lock()

    @classmethod
    def get(cls) -> Self:
        """The one of this test process, started when it is first needed."""
        if cls._of_this_process is None:
            cls._of_this_process = cls()
        return cls._of_this_process  # type: ignore[return-value]

    @classmethod
    def close(cls) -> None:
        """End it, if there is one; its forks have been stopped before."""
        if (parent := cls._of_this_process) is not None:
            parent._wire.close()
            parent._process.wait(10)
            cls._of_this_process = None

    def ask(self, order: dict[str, Any]) -> Any:
        """Send one order and return its answer."""
        with self._turn:
            self._wire.write(json.dumps(order) + "\n")
            self._wire.flush()
            return json.loads(self._wire.readline())


class Preloaded(Service):
    """A `Service` whose command is `python -m MODULE …`, forked instead of started cold."""

    folder = PROJECT

    def start(self) -> Self:
        assert self.command[:2] == [sys.executable, "-m"]
        self.log.touch()
        environment = {"PYTHONUNBUFFERED": "1", **self.environment}
        order = {
            "module": self.command[2],
            "arguments": self.command[3:],
            "environment": environment,
            "folder": str(self.folder),
            "log": str(self.log),
        }
        self.process = Fork(Parent.get(), order)  # type: ignore[assignment]
        return self

    def end(self, seconds: float) -> int:
        """Wait for it to end by itself and return the exit code."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()


#: What tests start as a worker.
Worker: type[Service] = Service if os.environ.get("CHAOS_LONG") == "1" else Preloaded


def serve(wire: Any) -> dict[str, Any] | None:
    """Fork whenever asked to: returns the order in the child, and None in the parent at the end."""
    for line in wire:
        order: dict[str, Any] = json.loads(line)
        if "poll" in order:
            ended, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif answer := os.fork():
            pass
        else:
            return order
        wire.write(json.dumps(answer) + "\n")
        wire.flush()
    return None


def become(order: dict[str, Any], parent: int) -> None:
    """Turn this fork into what `Service.start` would have started."""
    os.setsid()
    die_with_parent(parent, signal.SIGKILL)
    log = os.open(Path(order["log"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(order["folder"])
    for name in set(os.environ) - {"PATH", "HOME"}:
        del os.environ[name]
    os.environ.update(order["environment"])
    sys.argv = [order["module"], *order["arguments"]]


def main(descriptor: int) -> None:
    gc.disable()
    for library in LIBRARIES:
        importlib.import_module(library)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("sandbox", "tests")]:
        del sys.modules[name]
    assert not any(name.partition(".")[0] in ("worker", "tasks") for name in sys.modules)
    assert threading.active_count() == 1
    # The libraries' objects stay for ever: a fork's collector need not look at them.
    gc.freeze()
    gc.enable()
    parent = os.getpid()
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rw") as wire:
        order = serve(wire)
    if order is not None:
        become(order, parent)
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
