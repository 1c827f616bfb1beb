"""One of our own long-running programs (a worker, Flower) as a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from sandbox.account import SandboxError
from sandbox.process import die_with_parent, wait_until

PROJECT = Path(__file__).resolve().parent.parent


class Service:
    """A command in the foreground of its own session, logging to a file; dies with its parent.

    Args:
        command: what to run; a leading `python` is the interpreter of this process.
        environment: added to what a program needs to start; nothing else is inherited.
        log: where its output goes, appended.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.command = list(command)
        if self.command[0] == "python":
            self.command[0] = sys.executable
        self.environment = dict(environment)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The process id; raises `SandboxError` before the start."""
        if self.process is None:
            raise SandboxError(f"{self.command} is not running")
        return self.process.pid

    def start(self) -> Self:
        """Start the program and return at once; `wait_ready` tells when it can be used."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=PROJECT,
                env={**inherited, "PYTHONUNBUFFERED": "1", **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGKILL),  # noqa: PLW1509 - two system calls
            )
        return self

    def wait_ready(self, ready: Callable[[], bool], *, seconds: float = 60) -> Self:
        """Wait until `ready()`; raises `SandboxError` with the end of the log if it exits first."""

        def ready_or_dead() -> bool:
            if not self.running:
                raise SandboxError(f"{' '.join(self.command[1:4])} exited:\n{self.log_tail()}")
            return ready()

        wait_until(
            ready_or_dead, seconds=seconds, failure=f"{self.command} was not ready in {seconds} s"
        )
        return self

    def stop(self, *, seconds: float = 30) -> int | None:
        """SIGTERM, then SIGKILL after `seconds`; returns the exit code."""
        if self.process is None:
            return None
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return self.kill()

    def kill(self) -> int | None:
        """SIGKILL; returns the exit code."""
        if self.process is None:
            return None
        self.process.kill()
        return self.process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send any other signal."""
        assert self.process is not None  # noqa: S101
        self.process.send_signal(number)

    def log_text(self) -> str:
        """Everything logged so far."""
        return self.log.read_text(errors="replace")

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
