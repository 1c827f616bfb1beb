"""A webhook's DNS server that says one address to whoever checks, and another to whoever calls."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs what follows as root of namespaces of its own: users, mounts, network.
ALONE = ["unshare", "--user", "--map-root-user", "--mount", "--net"]


def may_be_alone() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_be_alone(), reason="needs unprivileged user namespaces and ip(8)")
def test_a_name_is_looked_up_once_for_check_and_call(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = [*ALONE, sys.executable, "-m", "tests.integration.rebinding", str(tmp_path)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    first, second = found["reasons"]
    assert "unreachable" in first  # the address that was looked at, from which no way leads out
    assert "not on the internet" in second
    assert found["answers"] == ["8.8.8.8", "127.0.0.1"]
    assert not found["private_called"]
