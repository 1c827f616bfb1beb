"""`claude-jobs prompts …` and `show --prompt`, as their users type them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.integration.command import Rows, Run
from worker.engine.prompts import PromptLibrary
from worker.settings import PROJECT
from worker.storage.engine import build_engine, transaction


@pytest.fixture
def edited(run: Run, tmp_path: Path) -> Path:
    """A copy of the prompts that the command works with, and that a test may edit."""
    folder = tmp_path / "prompts"
    shutil.copytree(PROJECT / "prompts", folder)
    run.environment = run.environment | {"CLAUDE_JOBS_PROMPTS_DIR": str(folder)}
    return folder


def test_the_prompts_are_locked(run: Run) -> None:
    assert run("prompts", "check").code == 0
    assert run("prompts", "lock").err == "nothing to do: every version is locked\n"


def test_a_new_version_is_locked_and_an_edited_one_refused(run: Run, edited: Path) -> None:
    old = edited / "classify_ticket" / "1.0.toml"
    (edited / "classify_ticket" / "1.1.toml").write_text(old.read_text() + "# \n")
    assert "classify_ticket/1.1 is not in versions.lock" in run("prompts", "check").line
    assert run("prompts", "lock").err == "locked classify_ticket/1.1\n"
    old.write_text(old.read_text().replace("max_tokens = ", "max_tokens = 1"))

    assert "classify_ticket/1.0 was released and has been edited" in run("prompts", "check").line


def test_a_fresh_installation_serves_the_highest_version(run: Run) -> None:
    listed = {(row["prompt"], row["version"]): row for row in _listed(run)}

    assert listed["analyze_document", "1.1"]["serves_percent"] == 100
    assert listed["analyze_document", "1.0"]["serves_percent"] == 0
    assert listed["analyze_document", "1.1"]["since"] is None
    told = run("prompts", "list").out
    assert "highest" in told
    history = run("prompts", "history", "analyze_document").out
    assert history == "analyze_document was never released: its highest version serves\n"


def _listed(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("prompts", "list", "--json").out)
    return found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["history", "nonsense"], "no prompt 'nonsense'"),
        (["diff", "analyze_document", "1.0", "7"], "has no version '7'"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    run: Run, rows: Rows, arguments: list[str], expected: str
) -> None:
    assert expected in run("prompts", *arguments).line
    assert rows("SELECT * FROM prompt_releases") == []


def test_versions_are_compared_word_by_word(run: Run, edited: Path) -> None:
    old = (edited / "classify_ticket" / "1.0.toml").read_text()
    model = old.split('"')[1]
    new = old.replace(f'"{model}"', '"claude-opus-5-5"').replace("# Output", "# The output", 1)
    (edited / "classify_ticket" / "1.1.toml").write_text(new)

    told = run("prompts", "diff", "classify_ticket", "1.0", "1.1").out

    assert f"model: {model} → claude-opus-5-5" in told
    assert "-# Output" in told
    assert "+# The output" in told
    same = run("prompts", "diff", "classify_ticket", "1.0", "1.0")
    assert same.out == ""
    assert "are the same" in same.err


GOOD = ["-i", "text=The fox.", "-i", "max_words=50", "-i", "audience=all"]


def test_a_prompt_is_not_shown_before_anything_was_sent(run: Run) -> None:
    job = run("enqueue", "summarize_text", *GOOD).out.strip()

    assert "nothing was sent to Claude for this job yet" in run("show", job, "--prompt").line
    assert "--call goes with --prompt" in run("show", job, "--call", "1.1").line


def test_the_prompt_of_a_call_is_shown_as_it_was_sent(
    run: Run, environment: dict[str, str], edited: Path
) -> None:
    """Its version has been removed since, and the output model has changed."""
    prompt = PromptLibrary.load(edited).get("summarize_text")
    job = run("enqueue", "summarize_text", *GOOD, "--user", "u").out.strip()
    engine = build_engine(environment["DATABASE_URL"])
    with transaction(engine) as connection:
        connection.execute(
            text("""
            INSERT INTO prompt_versions (prompt, version, sha256, content)
            VALUES ('summarize_text', '1.0', :sha, cast(:content AS jsonb));
            """),
            {"sha": prompt.sha256, "content": prompt.file.model_dump_json()},
        )
        connection.execute(
            text("INSERT INTO output_schemas (sha256, schema) VALUES ('s', '{\"of\":\"then\"}')")
        )
        connection.execute(
            text("""
            INSERT INTO usage (job_id, task, attempt, call, outcome, model, prompt, prompt_version,
                               prompt_sha256, schema_sha256)
            SELECT cast(:job AS uuid), 'summarize_text', 1, n, 'ok', 'm', 'summarize_text', '1.0',
                   :sha, 's' FROM generate_series(1, 2) AS n
            """),
            {"job": job, "sha": prompt.sha256},
        )
        connection.execute(
            text("""
            INSERT INTO follow_ups (usage_id, job_id, model, max_tokens, correction)
            SELECT max(id), job_id, 'fallback', 77, '{"bad_output": "a\\u0000b",
                   "instruction": "[mend] it"}' FROM usage GROUP BY job_id
            """)
        )
    engine.dispose()
    newer = edited / "summarize_text" / "1.0.toml"
    newer.rename(newer.with_name("1.1.toml"))

    first = run("show", job, "--prompt", "--call", "1.1").out
    last = run("show", job, "--prompt").out
    sent = json.loads(run("show", job, "--prompt", "--json").out)

    assert f"model {prompt.file.model}, max_tokens {prompt.file.max_tokens:,}" in first
    assert '{"of":"then"}' in first
    assert "The fox." in first
    assert "[mend] it" not in first
    assert "model fallback, max_tokens 77" in last
    assert "[mend] it" in last
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["messages"][1]["content"] == "a\x00b"
    assert sent["metadata"] == {"user_id": "u"}
    assert (
        "the job has no call '2.1'; it has 1.1, 1.2"
        in run("show", job, "--prompt", "--call", "2.1").line
    )
