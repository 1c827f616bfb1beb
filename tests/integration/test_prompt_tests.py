"""`claude-jobs prompts test` and `prompts check` as a command, without any job."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from worker.cli import main
from worker.engine.prompts import get_prompts
from worker.engine.registry import load_registry
from worker.settings import PROJECT
from worker.storage.engine import transaction
from worker.storage.prompt_tests import latest_run

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The released prompts, with their cases and recordings."""
    return Path(shutil.copytree(PROJECT / "prompts", tmp_path / "prompts"))


@pytest.fixture
def run(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """The command, with that folder, where there is no sandbox."""
    caches = (get_prompts, load_registry)
    monkeypatch.chdir(tmp_path)

    def claude_jobs(*arguments: object) -> tuple[int, str, str]:
        for cache in caches:
            cache.cache_clear()
        with monkeypatch.context() as patch:
            patch.setenv("CLAUDE_JOBS_PROMPTS_DIR", str(folder))
            patch.setattr(sys, "argv", ["claude-jobs", "prompts", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    # The cases of the released prompts quote texts of the sandbox.
    (tmp_path / "sandbox").symlink_to(PROJECT / "sandbox")
    yield claude_jobs
    for cache in caches:
        cache.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new), encoding="utf-8")


def test_recorded_replies_are_judged_without_a_database(run: Run) -> None:
    code, out, err = run("test", "summarize_text")

    assert code == 0, out
    assert "passed: 9 of 9 cases" in out
    assert "were skipped: only a live run can judge them" in out
    assert err.startswith("not stored: DATABASE_URL is not set")


@pytest.mark.usefixtures("producer")
def test_a_report_that_cannot_be_written_is_stored_all_the_same(run: Run) -> None:
    code, _, err = run("test", "classify_ticket", "--junit", "no/such/folder.xml")

    assert code == 1
    stored, complaint = err.splitlines()
    assert stored.startswith("stored as test run ")
    assert complaint.startswith("claude-jobs: cannot write the report: ")


@pytest.mark.usefixtures("producer")
def test_a_run_is_stored_where_there_is_a_database(run: Run, folder: Path) -> None:
    cases = folder / "summarize_text" / "cases.yaml"
    sha256 = get_prompts().get("summarize_text", "1.0").sha256
    with transaction() as connection:
        assert latest_run(connection, "summarize_text", sha256) is None

    assert run("test", "summarize_text", "--version", "1.0")[2].startswith("stored as test run ")
    edit(cases, "text: Savannah}", "text: Atlanta}")
    code, out, _ = run("test", "summarize_text")

    assert code == 1
    assert 'a telegram is shorter than its limit\n  ✗ Contains {at: "summary"' in out
    assert '"Atlanta" does not occur in "' in out
    with transaction() as connection:
        newest = latest_run(connection, "summarize_text", sha256)
        runs = connection.execute(text("SELECT passed FROM prompt_test_runs ORDER BY created_at"))
        assert list(runs.scalars()) == [True, False]
        assert latest_run(connection, "summarize_text", "another content") is None
    assert newest is not None
    assert (newest["mode"], newest["passed"], newest["failures"]) == ("recorded", False, 1)
    assert newest["skipped"] == 13
    assert newest["report"]["cases"][0]["name"] == "the word limit is kept"


def test_what_was_recorded_for_another_content_or_input_does_not_pass(
    run: Run, folder: Path
) -> None:
    edit(folder / "classify_ticket" / "1.0.toml", "You triage", "You sort")
    edit(folder / "summarize_text" / "cases.yaml", "max_words: 50", "max_words: 60")

    for prompt, what in (
        ("classify_ticket", "the prompt version was edited since this reply was recorded"),
        ("summarize_text", "the input was changed since this reply was recorded"),
    ):
        code, out, _ = run("test", prompt)
        assert code == 1
        assert f"✗ {what}: run `claude-jobs prompts test {prompt} --version 1.0 --live`" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no_such"], "no prompt 'no_such'"),
        (["classify_ticket", "--version", "9"], "has no version '9'"),
        (["classify_ticket", "--task", "no_such"], "unknown task 'no_such'"),
        (["classify_ticket", "--task", "summarize_text"], "does not use the prompt"),
    ],
)
def test_what_cannot_be_run_is_one_line(run: Run, arguments: list[str], complaint: str) -> None:
    code, _, err = run("test", *arguments)

    assert code == 1
    assert err.startswith("claude-jobs: ")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("producer")
def test_a_live_run_that_nobody_would_work_on_is_not_begun(run: Run, folder: Path) -> None:
    assert "no worker is alive" in run("test", "classify_ticket", "--live")[2]
    for cost in ("0", "nan", "inf", "-1"):
        assert "more than 0" in run("test", "classify_ticket", "--live", "--max-cost", cost)[2]
    with transaction() as connection:
        connection.execute(text("INSERT INTO workers (name, slots, running) VALUES ('w', 1, 0)"))
        connection.execute(
            text("INSERT INTO pauses VALUES ('task', 'classify_ticket', 'month end', 'zoe', now())")
        )
    assert (
        "task classify_ticket is paused (month end)" in run("test", "classify_ticket", "--live")[2]
    )
    edit(folder / "summarize_text" / "1.0.toml", "claude-haiku-5-5", "claude-unknown-9")
    assert "claude-unknown-9 has no known price" in run("test", "summarize_text", "--live")[2]
    (folder / "extract_entities" / "recorded" / "1.0.jsonl").unlink()
    (folder / "extract_entities" / "recorded").rmdir()
    (folder / "extract_entities" / "recorded").write_text("in the way")
    assert "--no-record does without" in run("test", "extract_entities", "--live")[2]
    with transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0


def test_without_the_extra_one_line_says_how_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("worker.evals")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jmespath", None)

    code, _, err = run("test", "classify_ticket")

    assert code == 1
    assert err == (
        "claude-jobs: `prompts test` needs the extra `prompts`: "
        "pip install 'claude-jobs[prompts]'\n"
    )


def test_the_command_line_starts_without_what_only_tests_need() -> None:
    script = (
        "import sys, worker.cli.app\n"
        "print({'pydantic_evals', 'jmespath', 'yaml', 'anthropic', 'celery'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_check_looks_at_schemas_and_recorded_replies(run: Run, folder: Path) -> None:
    code, _, err = run("check")
    assert code == 0, err
    assert "classify_ticket/1.0: locked, unchanged, 9 recorded replies accepted" in err

    edit(folder / "classify_ticket" / "recorded" / "1.0.jsonl", '\\"category\\": ', '\\"kind\\": ')
    code, _, err = run("check")

    assert code == 1
    assert err.startswith("claude-jobs: prompt classify_ticket/1.0, recorded case 'a duplicate ")
    assert "category: Field required" in err
    assert err.count("\n") == 1
