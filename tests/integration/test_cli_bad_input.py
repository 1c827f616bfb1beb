"""The `claude-jobs` command, asked wrongly: one line that names what to fix."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.integration.command import GOOD, Rows, Run, fields, json_file
from worker.settings import PROJECT
from worker.storage.engine import build_engine, transaction
from worker.storage.schema import head


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["enqueue", "translate"], "unknown task 'translate'; there are analyze_document, "),
        (["enqueue-file", "translate", "x"], "unknown task 'translate'"),
        (["list", "--task", "translate"], "unknown task 'translate'"),
        (["list", "--state", "lost"], "unknown state 'lost'; there are queued, "),
        (["enqueue", "summarize_text"], "text: Field required; max_words: Field required"),
        (["enqueue", "summarize_text", *fields(max_words="many")], "max_words: Input should be"),
        (["enqueue", "summarize_text", *fields(max_words=5)], "max_words: Input should be gr"),
        (["enqueue", "summarize_text", *fields(max_words="NaN")], "max_words: nan is not JSON"),
        (["enqueue", "summarize_text", *fields(max_words="[" * 100_000)], "max_words: Input"),
        (["enqueue", "summarize_text", "-i", "txt=x"], "has no field 'txt'; it has audience, "),
        (["enqueue", "summarize_text", "-i", "missing.json"], "cannot read missing.json: "),
        (["enqueue", "summarize_text", "-i", "text=@missing"], "text: cannot read missing: "),
        (["enqueue", "summarize_text", *fields(), "--prompt-version", "9"], "no version '9'; it"),
        (["enqueue", "summarize_text", *fields(), "--priority", "99999"], "priority 99999 is not"),
        (["enqueue", "summarize_text", *fields(), "--user", "\udcff"], "user_id: a lone surr"),
        (["enqueue", "summarize_text", *fields(), "--run-at", "soon"], "--run-at 'soon' is not"),
        (["enqueue-file", "summarize_text", "missing.jsonl"], "missing.jsonl: no such file"),
        (["enqueue-file", "summarize_text", "/dev/null", "--priority", "-1"], "priority -1 is not"),
        (["enqueue-file", "summarize_text", "/dev/null", "--prompt-version", "9"], "version '9'"),
        (["show", "12"], "'12' is not a job id (a uuid)"),
        (["show", "00000000-0000-4000-8000-000000000000"], "no job 00000000-0000-4000-8000-"),
        (["migrate", "9999"], "cannot migrate from"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    run: Run, rows: Rows, arguments: list[str], expected: str
) -> None:
    assert expected in run(*arguments).line
    assert rows("SELECT * FROM jobs") == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD | {"extra": 1}, "extra: Extra inputs are not permitted"),
        (GOOD | {"text": 5}, "text: Input should be a valid string"),
        (GOOD | {"text": "a\0b"}, "text: a NUL character at position 1"),
        (
            r'{"text": "ab\ud800", "max_words": 50, "audience": "x"}',
            "text: a lone surrogate (\\ud8",
        ),
        (GOOD | {"text": "x" * 10_000_000}, "the limit is 4,000,000 (CLAUDE_JOBS_MAX_INPUT_BYTES)"),
        ('{"text": ', "is not valid JSON: "),
        ("[" * 100_000, "is not valid JSON: "),
        ("[]", "must hold a JSON object with the task's fields"),
    ],
    ids=["unknown field", "wrong type", "NUL", "surrogate", "10 MB", "broken", "deep", "list"],
)
def test_a_bad_document_is_one_line_that_names_it(
    run: Run, rows: Rows, tmp_path: Path, content: object, expected: str
) -> None:
    line = run("enqueue", "summarize_text", "-i", json_file(tmp_path, content)).line

    assert expected in line
    assert len(line) < 500
    assert rows("SELECT * FROM jobs") == []


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("DATABASE_URL", "", "DATABASE_URL is not set"),
        ("DATABASE_URL", "nonsense", "DATABASE_URL is malformed: expected something like postg"),
        (
            "DATABASE_URL",
            "postgresql://u:secret@127.0.0.1:9/x",
            "cannot reach Postgres at 127.0.0.1:9",
        ),
        ("DATABASE_URL", "postgresql://u:secret@127.0.0.1:99999/x", "99999"),
        ("DATABASE_URL", "postgresql://u:secret@127.0.0.1:9/x?nonsense=1", "nonsense"),
        ("REDIS_URL", "nonsense", "REDIS_URL is malformed"),
        ("CLAUDE_JOBS_CONCURRENCY", "many", "CLAUDE_JOBS_CONCURRENCY input should be a valid"),
        (
            "CLAUDE_JOBS_PROMPTS_DIR",
            "/nowhere",
            "CLAUDE_JOBS_PROMPTS_DIR: /nowhere is not a folder",
        ),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(
    run: Run, variable: str, value: str, expected: str
) -> None:
    line = run("enqueue", "summarize_text", *fields(), **{variable: value}).line

    assert expected in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_tokens", "max_tokens = ", "prompt summarize_text/1.0.toml is not valid TOML: "),
        ("effort", "creativity", "prompt summarize_text/1.0.toml: creativity: Extra inputs"),
        ("{{ audience }}", "{{ readers }}", "summarize_text/1.0: the template uses readers, which"),
        ("{{ audience }}", "", "summarize_text/1.0: the input model has audience, which"),
    ],
)
def test_a_bad_prompt_is_one_line_that_names_the_file(
    run: Run, tmp_path: Path, old: str, new: str, expected: str
) -> None:
    shutil.copytree(PROJECT / "prompts", tmp_path / "prompts")
    file = tmp_path / "prompts" / "summarize_text" / "1.0.toml"
    content = file.read_text(encoding="utf-8")
    file.write_text(content.replace(old, new) if old in content else f'{new} = "x"\n{content}')

    result = run("tasks", CLAUDE_JOBS_PROMPTS_DIR=str(tmp_path / "prompts"))

    assert expected in result.line


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE alembic_version SET version_num = '0001'", "migration 0001"),
        ("UPDATE alembic_version SET version_num = '9999'", "newer than this code"),
        ("DROP TABLE alembic_version", "has no schema yet"),
    ],
)
def test_a_database_at_another_migration_is_one_line_with_the_command(
    run: Run, environment: dict[str, str], sql: str, expected: str
) -> None:
    if head() == "0001" and "0001" in sql:
        pytest.skip("the first migration is the newest")
    engine = build_engine(environment["DATABASE_URL"])
    with transaction(engine) as connection:
        connection.execute(text(sql))
    engine.dispose()

    for arguments in (["list"], ["show", "x"], ["enqueue", "summarize_text", *fields()]):
        line = run(*arguments).line
        assert expected in line
        assert f"this code needs {head()}: " in line


def test_a_user_who_may_not_read_the_tables_gets_one_line(
    run: Run, rows: Rows, environment: dict[str, str]
) -> None:
    url = environment["DATABASE_URL"]
    engine = build_engine(url)
    with transaction(engine) as connection:
        connection.execute(text("CREATE ROLE stranger_cli LOGIN PASSWORD 'secret'"))
    try:
        stranger = "postgresql://stranger_cli:secret@" + url.split("@")[1]
        assert "permission denied" in run("list", DATABASE_URL=stranger).line
    finally:
        with transaction(engine) as connection:
            connection.execute(text("DROP ROLE stranger_cli"))
        engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prompts", "history", "\udcff"), r"no prompt '\udcff': add prompts/\udcff/1.0.toml"),
        (("show", "\udcff"), r"\udcff"),
        (("pause", "--reason", "\udcff"), r"argument '\udcff': not in UTF-8"),
    ],
    ids=["a name", "an id", "a reason"],
)
def test_bytes_that_are_no_utf_8_are_one_line_that_shows_them(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    assert said in run(*arguments).line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["nonsense"],
        ["enqueue"],
        ["enqueue", "summarize_text", "--priority", "high"],
        ["list", "--limit", "0"],
        ["show"],
    ],
)
def test_a_usage_error_exits_with_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.code == 2
    assert "Error: " in result.err
