"""A server on a data folder: never as root, never shared, never without its parent."""

import secrets
import signal
import subprocess
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from sandbox.account import Account, Command, SandboxError, unprivileged
from sandbox.process import exclusive, free_port, spawn, wait_until


class Server(ABC):
    """One foreground server on one data folder, listening on 127.0.0.1 only.

    `port=0` takes a free one at the first start. Port and password then outlive restarts of this
    object; password and data outlive it. `durable=False` trades safety for speed: each server says
    what it may then lose.
    """

    name: ClassVar[str]
    stop_signals: ClassVar[tuple[tuple[signal.Signals, float], ...]]  # each with its patience in s

    def __init__(self, data: Path, *, port: int = 0, durable: bool = True) -> None:
        self.data = data.absolute()
        self.log = self.data / "server.log"
        self.port = port
        self.durable = durable
        self._password = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process that listens; raises `SandboxError` before `start()` and after `stop()`."""
        if self._process is None:
            raise SandboxError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until ready, or raise `SandboxError` and leave nothing running."""
        if self.running:
            raise SandboxError(f"{self.name} is already running on {self.data}")
        binary = self._binary()
        with exclusive(self.data) as lock:
            account = unprivileged(binary, self.data)
            account.take(self.data)
            self.port = self.port or free_port()
            self._password = self._secret(account)
            self._process = spawn(
                self._prepare(binary, account),
                account,
                folder=self.data,
                log=self.log,
                death=self.stop_signals[0][0],
                keep=(lock,),
            )
        try:
            wait_until(
                self._alive_and_ready, seconds=60, failure=f"{self.name} was not ready in 60 s"
            )
            self._started()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Shut down in order, more and more firmly; a server that is not running is left alone."""
        self._end(*self.stop_signals, (signal.SIGKILL, 10))

    def kill(self) -> None:
        """SIGKILL, as a crash would have it; `start()` then brings the same server back."""
        self._end((signal.SIGKILL, 10))

    def _end(self, *signals: tuple[signal.Signals, float]) -> None:
        if self._process is None:
            return
        for number, seconds in signals:
            self._process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        self._process = None
        with exclusive(self.data, seconds=10):  # its own children are gone too
            pass

    def _alive_and_ready(self) -> bool:
        if self.running:
            return self._ready()
        raise SandboxError(
            f"{self.name} stopped while starting; {self.log} ends with:\n{self.log_tail()}"
        )

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def _secret(self, account: Account) -> str:
        path = self.data / "password"
        if not path.exists():
            account.write(path, secrets.token_urlsafe(24))
        return path.read_text()

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, password included; known from the first start on."""

    @abstractmethod
    def _binary(self) -> Path:
        """The server's executable; raises `SandboxError` if there is none."""

    @abstractmethod
    def _prepare(self, binary: Path, account: Account) -> Command:
        """Bring the locked data folder into shape; returns what to run in it."""

    @abstractmethod
    def _ready(self) -> bool:
        """Does the process that was started answer, and not another on its port?"""

    def _started(self) -> None:  # noqa: B027 - not every server has something
        """What is left to do once the server is ready."""
