"""The `claude-jobs` command on a fresh system.

Most tests call its entry point in this process; a few start the installed script.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import tasks
from sandbox.process import free_port
from tests.integration.command import GOOD, SCRIPT, Rows, Run, fields, json_file
from worker.storage.engine import build_engine, transaction
from worker.storage.schema import head


def test_enqueue_reads_fields_files_and_stdin_and_merges_them(
    run: Run, rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("ünïcode\n=x", encoding="utf-8")
    half = {"max_words": 70, "text": "replaced"}

    result = run(
        "enqueue",
        "summarize_text",
        *("-i", json_file(tmp_path, half), "-i", "-", "-i", "text=@text.txt"),
        *("--user", "u1", "--priority", "3", "--run-at", "2099-01-01T00:00:00+00:00"),
        *("--deadline", "2099-02-01T00:00:00+00:00", "--lane", "interactive"),
        *("--model", "claude-opus-5-5", "--prompt-version", "1.0", "--idempotency-key", "k"),
        stdin=b'{"audience": "lawyers"}',
    )

    assert (result.code, result.err) == (0, "")
    (job,) = rows("SELECT * FROM jobs")
    assert result.out == f"{job['id']}\n"
    assert job["input"] == {"text": "ünïcode\n=x", "max_words": 70, "audience": "lawyers"}
    assert (job["user_id"], job["priority"], job["run_at"].year) == ("u1", 3, 2099)
    assert (job["deadline_at"].month, job["lane"]) == (2, "interactive")
    assert (job["model"], job["prompt_version"]) == ("claude-opus-5-5", "1.0")
    assert job["idempotency_key"] == "k"


def test_a_value_that_looks_like_json_stays_text_where_the_field_is_text(
    run: Run, rows: Rows
) -> None:
    run("enqueue", "summarize_text", *fields(text="[1, 2]"))
    run("enqueue", "extract_entities", "-i", "text=5", "-i", 'entity_types=["person", "place"]')

    assert [
        row["text"] for row in rows("SELECT input ->> 'text' AS text FROM jobs ORDER BY task")
    ] == [
        "5",
        "[1, 2]",
    ]


def test_the_same_idempotency_key_is_the_same_job_and_another_input_is_refused(
    run: Run, rows: Rows
) -> None:
    key = ("--idempotency-key", "order-1")
    first = run("enqueue", "summarize_text", *fields(), *key)

    assert run("enqueue", "summarize_text", *fields(), *key).out == first.out
    assert "'order-1'" in run("enqueue", "summarize_text", *fields(text="other"), *key).line
    assert len(rows("SELECT * FROM jobs")) == 1


def test_an_unreachable_broker_keeps_nobody_from_enqueueing(run: Run, rows: Rows) -> None:
    dead = f"redis://127.0.0.1:{free_port()}/0"

    assert run("enqueue", "summarize_text", *fields(), REDIS_URL=dead).code == 0
    assert [row["state"] for row in rows("SELECT state FROM jobs")] == ["queued"]


LINES = [
    json.dumps(GOOD).encode(),
    b'{"text": "no audience", "max_words": 50}',
    b"",
    b'{"text": ',
    b"[1]",
    rb'{"text": "nul\u0000", "max_words": 50, "audience": "x"}',
    rb'{"text": "\ud800", "max_words": 50, "audience": "x"}',
    b'{"text": "\xff", "max_words": 50, "audience": "x"}',
    b"[" * 100_000,
    b'{"text": "[/not-markup]", "max_words": 50, "audience": "x", "[/bold]": 1}',
    json.dumps(GOOD | {"text": "last"}).encode(),
]


WRONG = {2: "audience", 4: "JSON", 5: "object", 6: "NUL", 7: "surrogate", 8: "JSON", 9: "JSON"}


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_invalid_lines_are_reported_by_number_and_the_rest_is_enqueued(
    run: Run, rows: Rows, tmp_path: Path, source: str
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\n".join(LINES))
    name = "-" if source == "stdin" else path

    result = run("enqueue-file", "summarize_text", name, stdin=path.read_bytes())

    assert result.code == 1
    assert len(rows("SELECT * FROM jobs")) == 2
    for number, reason in WRONG.items():
        (line,) = [one for one in result.err.splitlines() if one.startswith(f"line {number}: ")]
        assert reason in line
    assert "2 jobs enqueued" in result.err
    assert "8 lines left out" in result.err


def test_thousands_of_lines_are_enqueued_and_a_second_run_adds_nothing(
    run: Run, rows: Rows, tmp_path: Path
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps(GOOD | {"text": f"text {n}"}) for n in range(2_500)))
    arguments = ("enqueue-file", "summarize_text", path, "--idempotency-prefix", "july")

    first, second = run(*arguments), run(*arguments)

    assert (first.code, second.code) == (0, 0)
    assert "2,500 jobs enqueued" in first.err
    (found,) = rows("SELECT count(*) AS jobs, count(DISTINCT input) AS inputs FROM jobs")
    assert (found["jobs"], found["inputs"]) == (2_500, 2_500)


def test_show_and_list_tell_a_job_to_people_and_to_programs(run: Run) -> None:
    job_id = run("enqueue", "summarize_text", *fields(), "--user", "[/u]:smile:").out.strip()

    assert f"{job_id}  summarize_text  queued" in run("list").out
    assert "[/u]:smile:" in run("list").out
    assert json.loads(run("list", "--json").out)[0]["id"] == job_id
    assert run("list", "--state", "failed").out == "no jobs\n"
    assert json.loads(run("list", "--task", "classify_ticket", "--json").out) == []
    shown = run("show", job_id).out
    assert "0 of 5, 0 rescues" in shown
    detailed = json.loads(run("show", job_id, "--json").out)
    assert (detailed["id"], detailed["input"], detailed["calls"]) == (job_id, GOOD, [])


def test_what_others_wrote_into_the_tables_is_never_markup(
    run: Run, environment: dict[str, str]
) -> None:
    engine = build_engine(environment["DATABASE_URL"])
    with transaction(engine) as connection:
        job_id = connection.execute(
            text("""
            INSERT INTO jobs (task, input, state, finished_at, error, user_id, model)
            VALUES ('[/t]', '{}', 'failed', now(), '{"type": "[/e]"}', '[/u]', '[/m]') RETURNING id
            """)
        ).scalar_one()
        connection.execute(
            text("""
            INSERT INTO usage (job_id, task, attempt, call, model, prompt, prompt_version,
                               prompt_sha256, request_id)
            VALUES (:id, '[/t]', 1, 1, '[/m]', '[/p]', '[/v]', '0', '[/r]')
            """),
            {"id": job_id},
        )
    engine.dispose()

    shown = run("show", job_id).out
    assert all(part in shown for part in ("[/t]", "[/e]", "[/u]", "[/m]", "[/p]/[/v]", "[/r]"))
    assert all(part in run("list").out for part in ("[/t]", "[/e]", "[/u]"))


def test_tasks_are_listed_with_their_fields_and_versions(run: Run) -> None:
    listed = run("tasks").out

    for name in tasks.registry:
        assert name in listed
    assert "analyze_document/1.1 (also 1.0)" in listed


def test_config_shows_every_variable_and_no_secret(run: Run) -> None:
    listed = run(
        "config",
        DATABASE_URL="postgresql://user:s3cret@[fe80::1]/db?password=s3cret",
        REDIS_URL="redis://:s3cret@host:6379/0",
        CELERY_BROKER_URL="amqp://user:s3cret@host//",
        ANTHROPIC_API_KEY="sk-s3cret",
        ANTHROPIC_BASE_URL="http://user:s3cret@127.0.0.1:9",
        FLOWER_BASIC_AUTH="admin:s3cret,other:s3cret",
    )

    assert listed.code == 0
    assert "s3cret" not in listed.out + listed.err
    assert "[fe80::1]" in listed.out
    for name in ("DATABASE_URL", "ANTHROPIC_API_KEY", "CLAUDE_JOBS_CONCURRENCY"):
        assert name in listed.out


def test_a_wrong_price_is_named_where_settings_are_listed_and_where_prices_are_used(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("discount = 15")

    for command in (("config",), ("usage", "reprice")):
        line = run(*command, CLAUDE_JOBS_PRICES_FILE=str(file)).line
        assert f"CLAUDE_JOBS_PRICES_FILE: {file}: discount is a percentage" in line
    assert run("list", CLAUDE_JOBS_PRICES_FILE=str(file)).code == 0


def test_migrate_is_idempotent_and_goes_down_and_up(run: Run, rows: Rows) -> None:
    assert run("migrate").err == f"nothing to do: the database is at {head()}\n"
    assert run("migrate", "base").err == f"migrated from {head()} to base\n"
    assert "has no schema yet" in run("list").line
    assert run("migrate").err == f"migrated from base to {head()}\n"
    assert run("list").out == "no jobs\n"


COMMANDS = ["enqueue", "enqueue-file", "show", "list", "tasks", "config", "migrate", "prompts"]


@pytest.mark.parametrize("command", [*COMMANDS, "prompts check", "prompts release", ""])
def test_help_needs_no_settings(run: Run, command: str) -> None:
    for flag in ("-h", "--help"):
        result = run(*command.split(), flag, DATABASE_URL="", REDIS_URL="")
        assert result.code == 0
        assert "Usage: " in result.out


def script(environment: dict[str, str], folder: Path, *arguments: str, **options: Any) -> Any:
    return subprocess.Popen(
        [SCRIPT, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_the_installed_script_fails_with_one_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with script(environment | {"DATABASE_URL": "nonsense"}, tmp_path, "list") as process:
        out, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert out == b""
    assert err.startswith(b"claude-jobs: DATABASE_URL is malformed")
    assert err.count(b"\n") == 1


def test_a_reader_that_stops_reading_ends_the_command_quietly(
    run: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    for _ in range(3):
        run("enqueue", "summarize_text", *fields())

    for arguments in (["list"], ["list", "--json"]):
        with script(environment, tmp_path, *arguments) as process:
            process.stdout.close()
            err = process.stderr.read()
            process.wait(60)
        assert b"Traceback" not in err
        assert b"Exception" not in err
        assert process.returncode == 1
