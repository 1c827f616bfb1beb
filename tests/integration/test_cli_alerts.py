"""The command `claude-jobs alerts`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from tests.integration.alerts_world import ended, execute, look
from worker.cli import main

pytestmark = pytest.mark.usefixtures("producer")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["claude-jobs", "alerts", *arguments])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return command


def test_the_command_lists_and_acknowledges(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run() == (0, "no alerts\n", "")
    ended(6000, priced=False)
    look()

    listed = json.loads(run("--json")[1])
    assert [row["kind"] for row in listed] == ["output_bound", "unpriced_model"]
    assert "6,000 output tokens" in run()[1]
    first, second = (row["id"] for row in listed)
    assert run("ack", first) == (0, "", "1 alerts acknowledged\n")
    assert run("ack", first)[0] == 1
    assert run("ack", "--all")[2] == "1 alerts acknowledged\n"
    seen = {row["id"]: row["acknowledged_by"] for row in json.loads(run("--json")[1])}
    assert all(seen[alert] for alert in (first, second))

    execute("UPDATE alerts SET last_at = now() - interval '8 days'")
    assert run()[1] == "no alerts\n"
    assert len(json.loads(run("--since", "9d", "--json")[1])) == 2


def test_bad_options_are_one_line(run: Callable[..., tuple[int, str, str]]) -> None:
    for arguments in (("--since", "x"), ("ack",), ("ack", "12"), ("ack", "12", "--all")):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("claude-jobs: ")
