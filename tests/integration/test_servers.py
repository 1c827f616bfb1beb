"""The embedded Postgres and Valkey, as real processes."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import psutil
import psycopg
import pytest
import redis

from sandbox.account import SandboxError
from sandbox.postgres import Postgres
from sandbox.process import wait_until
from sandbox.server import Server
from sandbox.valkey import Valkey

ROOT = os.geteuid() == 0
Kind = Callable[[Path], Server]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: pytest keeps that below a folder that, when we are root, only root enters."""
    path = Path(tempfile.mkdtemp(prefix="claude-jobs-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=[Postgres, Valkey], ids=["postgres", "valkey"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return cast(Kind, request.param)


@pytest.fixture
def server(kind: Kind, folder: Path) -> Iterator[Server]:
    with kind(folder / "data") as server:
        yield server


def remember(server: Server, word: str) -> None:
    if isinstance(server, Postgres):
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE words AS SELECT %s::text AS word", [word])
    else:
        with redis.Redis.from_url(server.url) as client:
            client.set("word", word)


def recall(server: Server) -> str:
    if isinstance(server, Postgres):
        with psycopg.connect(server.url) as connection:
            row = connection.execute("SELECT word FROM words").fetchone()
            assert row is not None
            return cast(str, row[0])
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return cast(str, client.get("word"))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def is_root(pid: int) -> bool:
    """Root in our own user namespace; in another one, root's uid has none of root's powers."""
    same = os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    return same and psutil.Process(pid).uids().effective == 0


def user_namespaces() -> bool:
    command = ["unshare", "--user", "--map-user=65534", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, check=False).returncode == 0


def test_answers_and_keeps_what_it_is_told(server: Server) -> None:
    remember(server, "blue")
    assert recall(server) == "blue"


@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_comes_back_with_its_port_password_and_data(
    server: Server, end: Callable[[Server], None]
) -> None:
    remember(server, "blue")
    url, pid = server.url, server.pid
    end(server)
    with pytest.raises(SandboxError, match="not running"):
        _ = server.pid
    server.start()
    assert (server.url, recall(server)) == (url, "blue")
    assert server.pid != pid


def test_comes_back_after_a_crash_of_its_own(server: Server) -> None:
    remember(server, "blue")
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.running, seconds=5, failure="it did not die")
    server.start()
    assert recall(server) == "blue"


def test_password_and_data_outlive_the_object(kind: Kind, folder: Path) -> None:
    with kind(folder / "data") as first:
        remember(first, "blue")
        password = first.url.split("@")[0]
    with kind(folder / "data") as second:
        assert second.url.split("@")[0] == password
        assert recall(second) == "blue"


def test_stopping_twice_is_harmless(server: Server) -> None:
    server.stop()
    server.stop()
    server.kill()


def test_a_second_server_on_the_same_folder_is_refused(server: Server, kind: Kind) -> None:
    remember(server, "blue")
    with pytest.raises(SandboxError, match=r"data is in use by a running server$"):
        kind(server.data).start()
    with pytest.raises(SandboxError, match="already running"):
        server.start()
    assert recall(server) == "blue"


PARENT = """
import json, signal, sys
from pathlib import Path
from sandbox.postgres import Postgres
from sandbox.valkey import Valkey

with Postgres(Path(sys.argv[1])) as postgres, Valkey(Path(sys.argv[2])) as valkey:
    print(json.dumps([[postgres.pid, postgres.url], [valkey.pid, valkey.url]]), flush=True)
    signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has death signals")
def test_killed_parents_take_their_servers_along(folder: Path) -> None:
    data = [folder / "postgres", folder / "valkey"]
    command = [sys.executable, "-c", PARENT, *map(str, data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        servers = json.loads(parent.stdout.readline())
        processes = [psutil.Process(pid) for pid, _ in servers]
        processes += processes[0].children(recursive=True)
        with psycopg.connect(servers[0][1]), redis.Redis.from_url(servers[1][1]) as client:
            assert client.ping()
            parent.kill()
            wait_until(
                lambda: all(map(gone, processes)), seconds=5, failure="a server outlived its parent"
            )
    with Postgres(data[0]), Valkey(data[1]):
        pass


def test_what_is_secret_stays_in_private_files(
    kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-not-yours")
    with kind(folder / "data") as server:
        password = (server.data / "password").read_text()
        assert password in server.url
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
        for path in server.data.iterdir():
            if path.is_file() and password in path.read_text():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert password not in " ".join(psutil.Process(server.pid).cmdline())
        assert "ANTHROPIC_API_KEY" not in psutil.Process(server.pid).environ()


def test_listens_on_loopback_only(server: Server) -> None:
    process = psutil.Process(server.pid)
    listening = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert [(c.laddr.ip, c.laddr.port) for c in listening] == [("127.0.0.1", server.port)]


def test_a_wrong_password_is_refused(server: Server) -> None:
    url = server.url.replace((server.data / "password").read_text(), "guess")
    if isinstance(server, Postgres):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url)
    else:
        with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_a_start_that_fails_says_why_and_leaves_nothing(kind: Kind, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = kind(folder / "data")
        server.port = other.getsockname()[1]
        with pytest.raises(SandboxError, match=r"stopped while starting.*\n(.*\n)*.*in use"):
            server.start()
        assert not server.running
    server.start()
    server.stop()


def test_a_folder_with_other_files_is_left_alone(kind: Kind, folder: Path) -> None:
    (folder / "diary.txt").write_text("dear diary")
    with pytest.raises(SandboxError, match="holds other files"):
        kind(folder).start()
    assert [path.name for path in folder.iterdir()] == ["diary.txt"]


def test_a_thread_that_would_end_too_early_cannot_start_servers(kind: Kind, folder: Path) -> None:
    raised: list[str] = []

    def start() -> None:
        try:
            kind(folder / "data").start()
        except SandboxError as error:
            raised.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert raised == ["embedded servers have to be started from the main thread"]


def test_missing_binaries_name_the_remedy(
    folder: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(()))
    with pytest.raises(SandboxError, match=r"pip install 'claude-jobs\[sandbox\]'"):
        kind(folder / "data").start()


@pytest.mark.skipif(
    not [*Path("/usr/lib/postgresql").glob("*/bin/initdb")], reason="no Debian Postgres here"
)
def test_debians_postgres_serves_where_the_wheel_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with Postgres(folder / "data", durable=False) as server:
        remember(server, "blue")
        assert recall(server) == "blue"
        assert psutil.Process(server.pid).cmdline()[0].startswith("/usr/lib/postgresql/")


def test_databases_are_copied_from_a_template_and_dropped_under_load(folder: Path) -> None:
    with Postgres(folder / "data", durable=False) as server:
        remember(server, "blue")
        url = server.create_database("copy-1", template="claude_jobs")
        assert server.create_database("empty") != url
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT word FROM words").fetchone() == ("blue",)
            connection.commit()
            server.drop_database("copy-1")
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(url)
        server.drop_database("copy-1")


def test_postgres_starts_over_what_a_crash_left(folder: Path) -> None:
    (folder / "data" / "pgdata.new").mkdir(parents=True)
    (folder / "data" / "lock").touch()
    with Postgres(folder / "data", durable=False) as server:
        pid_file = server.data / "pgdata" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        server.kill()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:], ""]))
        server.start()
        remember(server, "blue")


def test_postgres_settings_that_others_rely_on(folder: Path) -> None:
    with Postgres(folder / "data") as server, psycopg.connect(server.url) as connection:
        query = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
        names = ["max_connections", "fsync", "synchronous_commit", "unix_socket_directories"]
        assert dict(connection.execute(query, [names]).fetchall()) == {
            "max_connections": "300",
            "fsync": "on",
            "synchronous_commit": "on",
            "unix_socket_directories": "",
        }
        locale = "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'claude_jobs'"
        assert connection.execute(locale).fetchone() == ("b", "C.UTF-8")


def test_valkey_without_durability_comes_back_empty(folder: Path) -> None:
    with Valkey(folder / "data", durable=False) as server:
        with redis.Redis.from_url(server.url.removesuffix("/0") + "/1023") as client:
            client.set("word", "blue")
        server.stop()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.info("keyspace") == {}


@pytest.mark.skipif(not ROOT, reason="an ordinary user's servers have nothing to drop")
def test_root_hands_its_servers_to_somebody_else(server: Server) -> None:
    assert not is_root(server.pid)


@pytest.mark.skipif(not ROOT, reason="only root has folders that `nobody` cannot reach")
@pytest.mark.skipif(not user_namespaces(), reason="no user namespaces here")
def test_root_can_keep_its_data_to_itself(kind: Kind, folder: Path) -> None:
    home = folder / "home"
    home.mkdir(mode=0o700)
    with kind(home / "data") as server:
        assert not is_root(server.pid)
        remember(server, "blue")
        assert recall(server) == "blue"
    folder.joinpath("moved").mkdir(mode=0o755)
    with kind((home / "data").rename(folder / "moved" / "data")) as server:
        assert recall(server) == "blue"


@pytest.mark.skipif(not ROOT, reason="an ordinary user has nobody to become")
def test_root_is_told_when_no_account_will_do(
    kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "home").mkdir(mode=0o700)
    (folder / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (folder / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    with pytest.raises(SandboxError, match=r"does not run as root: let `nobody` reach .*/home"):
        kind(folder / "home" / "data").start()
