"""Under what conditions was measured: numbers without them mean little."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.environment import PEERS_PYTHON
from sandbox.service import PROJECT
from sandbox.stack import Stack
from worker.storage.engine import transaction

PACKAGES = (
    "anthropic", "httpx2", "celery", "kombu", "redis", "hiredis",
    "SQLAlchemy", "psycopg", "pydantic",
)  # fmt: skip
PEERS = ("arq", "taskiq", "taskiq-redis", "dramatiq", "rq", "procrastinate", "gevent")


def conditions(stack: Stack) -> dict[str, Any]:
    """The machine and the versions; `load_before` tells whether others were at work too."""
    with transaction() as connection:
        postgres = connection.exec_driver_sql("SHOW server_version").scalar_one()
    with redis.Redis.from_url(stack.environment["REDIS_URL"]) as client:
        info = client.info("server")
    return {
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgres": str(postgres).split()[0],
        "valkey": info.get("valkey_version") or info["redis_version"],
        "packages": {name: version(name) for name in PACKAGES},
        "peers": _peer_versions(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _peer_versions() -> dict[str, str]:
    """Of those that are installed, read without importing anything of theirs."""
    site = PEERS_PYTHON.parents[1].glob("lib/python*/site-packages")
    found = {dist.name.lower(): dist.version for dist in distributions(path=[str(p) for p in site])}
    return {name: found[name] for name in PEERS if name in found}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str:
    """What was measured; `-dirty` when files differ from the commit."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return said.stdout.strip() or "unknown"
