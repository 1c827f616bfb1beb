"""The process: its start, its end, its command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx2
import psutil
import pytest

from sandbox.claude.__main__ import main, parser
from sandbox.claude.client import SimulatedClaude
from sandbox.claude.config import Config
from sandbox.claude.mixes import mix


def test_it_comes_back_at_the_same_url() -> None:
    claude = SimulatedClaude()
    with claude:
        url, pid = claude.url, claude.pid
        claude.kill()
        assert not psutil.pid_exists(pid)
        claude.start()

        assert claude.url == url
        assert claude.ledger() == []


def test_it_dies_with_its_parent() -> None:
    script = (
        "from sandbox.claude.client import SimulatedClaude; import signal\n"
        "print(SimulatedClaude().start().pid, flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        child.wait(5)


def test_a_port_in_use_is_reported(
    claude: SimulatedClaude, capfd: pytest.CaptureFixture[str]
) -> None:
    port = int(claude.url.rsplit(":", 1)[1])

    with pytest.raises(RuntimeError, match="did not start"):
        SimulatedClaude(port=port).start()
    assert "address already in use" in capfd.readouterr().err


def test_it_runs_on_its_own_and_ctrl_c_ends_it() -> None:
    command = [sys.executable, "-m", "sandbox.claude", "--faults", "rough:1", "--overload", "5"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        faults = httpx2.get(f"{url}/_control/faults", trust_env=False).json()
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=10)

    assert len(faults) == len(mix("rough"))
    assert (process.returncode, rest, complaints) == (0, "", "")


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--faults", "rouh", "no fault mix 'rouh'; there are rough"),
        ("--limits", "{", "argument --limits: not JSON"),
        ("--limits", '{"gpt": {}}', "--limits.gpt.requests: Field required"),
        ("--latency", "-1", "--latency: Input should be greater than or equal to 0"),
    ],
)
def test_a_bad_option_is_named(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: str,
    complaint: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["sandbox.claude", f"{option}={value}"])
    with pytest.raises(SystemExit):
        main()

    assert complaint in capsys.readouterr().err


def test_every_setting_is_an_option() -> None:
    for name in Config.model_fields:
        assert f"--{name.replace('_', '-')}" in parser().format_help()
