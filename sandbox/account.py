"""Who an embedded server runs as: never root."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Command = Sequence[str | Path]


class SandboxError(RuntimeError):
    """An embedded server cannot run here; the message says why and what to do about it."""


@dataclass(frozen=True)
class Account:
    """Who a server runs as: another user, or the same one behind a command such as `unshare`."""

    uid: int | None = None
    gid: int | None = None
    prefix: tuple[str, ...] = ()

    @property
    def ids(self) -> dict[str, Any]:
        """The options of `subprocess` that switch to this account."""
        groups = None if self.uid is None else ()
        return {"user": self.uid, "group": self.gid, "extra_groups": groups}

    def reaches(self, binary: Path, folder: Path) -> bool:
        """Can this account run `binary` in `folder`? Tried, as mode bits do not tell it all."""
        script = 'test -x "$1" && exec "$0" --version'
        command: Command = (*self.prefix, "sh", "-c", script, binary, folder)
        try:
            tried = subprocess.run(
                command, capture_output=True, check=False, timeout=10, **self.ids
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return tried.returncode == 0

    def take(self, path: Path) -> None:
        """Make `path` and all below it this account's; nothing to do for an ordinary user."""
        if os.geteuid() == 0:
            for each in (path, *path.rglob("*")):
                os.chown(each, self.uid or 0, self.gid or 0, follow_symlinks=False)

    def write(self, path: Path, text: str) -> None:
        """Replace `path` with a file that nobody but this account can read."""
        fresh = path.with_name(f"{path.name}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)
        self.take(fresh)
        fresh.replace(path)


def unprivileged(binary: Path, folder: Path) -> Account:
    """The account that runs `binary` on data in `folder`; raises `SandboxError` if none can.

    An ordinary user stays who they are. Root becomes `nobody` or, where `nobody` cannot reach the
    files (below a 0700 home), a user that owns root's files and has none of root's powers.
    """
    if os.geteuid() != 0:
        return Account()
    accounts = [
        Account(prefix=("unshare", "--user", "--map-user=65534", "--map-group=65534", "--"))
    ]
    with suppress(KeyError):
        nobody = pwd.getpwnam("nobody")
        accounts.insert(0, Account(nobody.pw_uid, nobody.pw_gid))
    for account in accounts:
        if account.reaches(binary, folder.parent):
            return account
    raise SandboxError(
        f"{binary.name} does not run as root: let `nobody` reach {binary.parent} and "
        f"{folder.parent}, allow user namespaces, or start as an ordinary user"
    )
