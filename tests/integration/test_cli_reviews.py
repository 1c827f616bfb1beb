"""The command `claude-jobs prompts review`, and what it chooses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import summarize_text
from tests.integration.command import Rows, Run
from tests.reviewing import INPUT
from worker.engine import releasing
from worker.engine.catalog import register
from worker.engine.pins import pin_to
from worker.engine.prompts import Prompt
from worker.engine.registry import load_registry
from worker.errors import ConfigurationError, UnknownPromptVersion
from worker.review import inputs
from worker.review.subject import choose_subject
from worker.storage.engine import transaction

BAD_ARGUMENTS = [
    (["translate", "1.0"], "no prompt 'translate': add prompts/translate/1.0.toml"),
    (["analyze_document", "9"], "has no version '9'; it has 1.0, 1.1"),
    (["analyze_document", "1.1", "--baseline", "9"], "has no version '9'"),
    (["analyze_document", "1.1", "--baseline", "1.1"], "say the same to Claude"),
    (["analyze_document", "1.1", "--task", "summarize_text"], "uses prompt summarize_text"),
    (["analyze_document"], "which prompt, and which version?"),
    (["analyze_document", "1.1", "--inputs", "none.jsonl"], "cannot read none.jsonl: "),
    (["analyze_document", "1.1", "--inputs", "/dev/null"], "/dev/null holds no inputs"),
    (["analyze_document", "1.1", "--from-jobs", "3"], "has succeeded yet"),
    (["analyze_document", "1.1", "--from-jobs", "3", "--samples", "3"], "stands alone"),
    (["analyze_document", "1.1", "--reveal"], "--reveal belongs to --export"),
    (["--import", "none.json"], "cannot read none.json: "),
    (["--import", "/dev/null"], "/dev/null: (all): Invalid JSON"),
]


def test_bad_input_is_one_line_that_names_it(run: Run, rows: Rows) -> None:
    for arguments, expected in BAD_ARGUMENTS:
        assert expected in run("prompts", "review", *arguments).line
    assert rows("SELECT * FROM jobs") == []


def test_a_line_that_does_not_fit_is_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text(json.dumps(INPUT) + "\n" + json.dumps(INPUT | {"max_words": 1}) + "\n")
    command = ("prompts", "review", "summarize_text", "1.0", "--inputs", file)
    assert "input 2: summarize_text: max_words: Input should be greater" in run(*command).line
    file.write_text(json.dumps(INPUT) + "\n{")
    assert "inputs.jsonl:2: not valid JSON" in run(*command).line
    file.write_text('{"text": {"$text": "../../secret"}}')
    assert "inputs.jsonl:1: cannot read " in run(*command).line


def test_without_the_extra_one_line_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("uvicorn", "starlette"):
        monkeypatch.setitem(sys.modules, package, None)
        line = run("prompts", "review", "summarize_text", "1.0").line
        expected = f"reviews need the package {package}: pip install 'claude-jobs[prompts]'"
        assert line.endswith(expected)


def test_a_task_without_samples_says_where_else_inputs_come_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("worker.review.inputs._SAMPLES", tmp_path)
    with pytest.raises(ConfigurationError, match=r"name a file with --inputs .* --from-jobs N"):
        inputs.from_samples(summarize_text, 5)


def test_a_prompt_that_two_tasks_use_needs_a_task(producer: None) -> None:
    registry = load_registry()
    twin = replace(summarize_text, name="shorten_text")
    both = type(registry)({**registry, "shorten_text": twin}, registry.prompts)
    with transaction() as connection:
        with pytest.raises(ConfigurationError, match="say --task shorten_text or summarize_text"):
            choose_subject(connection, both, "summarize_text", "1.0")
        chosen = choose_subject(connection, both, "summarize_text", "1.0", task="shorten_text")

    assert chosen.task.name == "shorten_text"
    assert chosen.baseline is None


def test_the_baseline_is_what_serves_or_else_the_highest_that_differs(producer: None) -> None:
    registry = load_registry()
    old, new = (registry.prompts.get("analyze_document", version) for version in ("1.0", "1.1"))
    draft = Prompt("analyze_document", "1.1", new.file.model_copy(update={"max_tokens": 9}))
    with transaction() as connection:

        def baseline_of(version: str) -> Prompt | None:
            return choose_subject(connection, registry, "analyze_document", version).baseline

        assert (baseline_of("1.1"), baseline_of("1.0")) == (old, new)
        register(connection, [draft])
        assert baseline_of(pin_to(draft)) == new
        releasing.release(
            connection, registry.prompts, "analyze_document", {"1.0": 9000, "1.1": 1000}, by="Ann"
        )
        assert (baseline_of(pin_to(draft)), baseline_of("1.0")) == (old, new)
        with pytest.raises(UnknownPromptVersion, match="in neither the folder nor the database"):
            baseline_of("1.1@" + "0" * 12)
