"""`python -m sandbox.record`: the same files each time, and only replies that the checks accept."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from sandbox import record
from sandbox.claude.client import SimulatedClaude
from worker.settings import PROJECT

FILE = Path("classify_ticket", "recorded", "1.0.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The released prompts, without their recordings."""
    ignored = shutil.ignore_patterns("recorded", "__pycache__")
    return Path(shutil.copytree(PROJECT / "prompts", tmp_path / "prompts", ignore=ignored))


def run(folder: Path, *arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["record", "--prompts", str(folder), *arguments])
        return record.main()


def test_recording_twice_gives_the_same_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "classify_ticket") == 0
    first = (folder / FILE).read_bytes()

    assert run(folder, "classify_ticket", "--again") == 0
    assert (folder / FILE).read_bytes() == first
    assert not (folder / "summarize_text" / "recorded").exists()
    capsys.readouterr()
    assert run(folder, "classify_ticket") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_live_recording_asks_whom_the_environment_names_and_keeps_what_is_accepted(
    folder: Path,
    claude: SimulatedClaude,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    claude.faults({"content": "missing_field", "times": 1})

    assert run(folder, "classify_ticket", "--live", "--cases", "4") == 1

    kept = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    assert [each["case"] for each in kept] == ["sample-02", "sample-03", "sample-04"]
    assert {each["reply"]["id"] for each in kept} == {f"msg_live_0{n}" for n in (2, 3, 4)}
    assert "classify_ticket/1.0, case sample-01: " in capsys.readouterr().err
    assert len(claude.ledger()) == 4


def test_too_few_accepted_replies_write_nothing(
    folder: Path, claude: SimulatedClaude, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    claude.faults({"content": "wrong_type", "times": 4})

    assert run(folder, "classify_ticket", "--live") == 1
    assert not (folder / FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no_such"], "no task has a prompt 'no_such'; there are analyze_document, "),
        (["--live"], "ANTHROPIC_API_KEY is not set"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert run(folder, *arguments) == 1

    said = capsys.readouterr().err
    assert said.startswith("record: ")
    assert complaint in said
    assert said.count("\n") == 1


def test_a_live_call_that_fails_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")  # the base URL leads nowhere

    assert run(folder, "classify_ticket", "--live") == 1
    assert capsys.readouterr().err == "record: Connection error.\n"
