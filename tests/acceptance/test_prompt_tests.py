"""`claude-jobs prompts test --live`: cases as jobs that a real worker runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import text
from typer.testing import CliRunner

from sandbox.claude.client import SimulatedClaude
from worker.cli.app import app
from worker.engine.prompts import get_prompts
from worker.engine.registry import load_registry
from worker.settings import PROJECT, get_settings
from worker.storage.engine import transaction
from worker.storage.prompt_tests import latest_run

pytestmark = pytest.mark.usefixtures("worker")

RECORDED = Path("classify_ticket", "recorded", "1.0.jsonl")
CASE = """
- name: {name}
  inputs: {{subject: Paid twice, body: "Order {name}", categories: [billing, other]}}
  evaluators:
  - {evaluator}
"""


@pytest.fixture
def folder(
    fleet_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A prompt writer's copy of the prompts, without recordings."""
    ignored = shutil.ignore_patterns("recorded", "__pycache__")
    copied = shutil.copytree(PROJECT / "prompts", tmp_path / "prompts", ignore=ignored)
    monkeypatch.setenv("CLAUDE_JOBS_PROMPTS_DIR", str(copied))
    caches = (get_settings, get_prompts, load_registry)
    for cache in caches:
        cache.cache_clear()
    yield Path(copied)
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def write(folder: Path) -> Callable[..., None]:
    """Writes the cases of classify_ticket: one for each name, with what is expected of it."""

    def cases(**evaluators: str) -> None:
        made = [CASE.format(name=name, evaluator=each) for name, each in evaluators.items()]
        (folder / "classify_ticket" / "cases.yaml").write_text("cases:" + "".join(made))

    return cases


def prompts_test(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["prompts", "test", "classify_ticket", *map(str, arguments)])


def query(sql: str) -> list[Any]:
    with transaction() as connection:
        return list(connection.execute(text(sql)).mappings())


def stored() -> Any:
    with transaction() as connection:
        sha256 = get_prompts().get("classify_ticket").sha256
        return latest_run(connection, "classify_ticket", sha256)


def recorded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORDED).read_text().splitlines()]


def test_a_run_is_recorded_stored_with_its_cost_and_then_passes_without_claude(
    claude: SimulatedClaude, folder: Path, write: Callable[..., None], tmp_path: Path
) -> None:
    write(first="NotEmpty: summary", second="OneOf: {at: category, values: [billing, other]}")

    done = prompts_test("--live", "--json", tmp_path / "r.json", "--junit", tmp_path / "r.xml")

    assert done.exit_code == 0, done.output
    assert "passed: 2 of 2 cases, 4 expectations held, 0 did not; cost $0.000" in done.stdout
    assert [each["case"] for each in recorded(folder)] == ["first", "second"]
    billed = sum((Decimal(str(entry.cost_usd)) for entry in claude.ledger()), Decimal(0))
    report, run = json.loads((tmp_path / "r.json").read_text()), stored()
    assert Decimal(report["cost_usd"]) == run["cost_usd"] == billed > 0
    assert run["report"] == report
    assert (run["mode"], run["passed"], run["cases"], run["failures"]) == ("live", True, 2, 0)
    assert (tmp_path / "r.xml").read_text().count("<testcase ") == 6
    (job,) = query("SELECT DISTINCT user_id, prompt_version FROM jobs")
    assert job == {"user_id": "prompt-test", "prompt_version": f"1.0@{run['prompt_sha256'][:12]}"}

    claude.reset()
    again = prompts_test()

    assert again.exit_code == 0, again.output
    assert stored()["mode"] == "recorded"
    assert claude.ledger() == []


def test_what_fails_is_shown_with_its_value_and_a_reply_is_recorded_all_the_same(
    claude: SimulatedClaude, folder: Path, write: Callable[..., None]
) -> None:
    write(
        good="NotEmpty: summary",
        wrong="Equals: {at: category, value: refunds}",
        refused="NotEmpty: summary",
    )
    claude.faults({"match": "Order refused", "stop_reason": "refusal", "times": None})

    done = prompts_test("--live")

    assert done.exit_code == 1
    assert 'Equals {at: "category", value: "refunds"}\n    it is "' in done.stdout
    assert "the job failed: refused: Claude declined to answer" in done.stdout
    assert "not passed: 1 of 3 cases" in done.stdout
    assert [each["case"] for each in recorded(folder)] == ["good", "wrong"]
    run = stored()
    assert (run["passed"], run["cases"], run["failures"]) == (False, 3, 2)
    assert "✗ no reply is recorded: run `claude-jobs prompts test" in prompts_test().stdout


def test_a_rubric_is_judged_by_a_job_whose_cost_counts(
    claude: SimulatedClaude, write: Callable[..., None]
) -> None:
    write(short="Rubric: It is one sentence.", kind="Rubric: It is kind.")
    met = json.dumps({"reason": "It is.", "passed": True})
    missed = json.dumps({"reason": "It scolds the customer.", "passed": False})
    claude.faults(
        {"match": "It is one sentence.", "reply": met},
        {"match": "It is kind.", "reply": missed},
    )

    done = prompts_test("--live")

    assert done.exit_code == 1
    assert 'Rubric {text: "It is kind."}\n    It scolds the customer.' in done.stdout
    judged = query("SELECT * FROM usage WHERE prompt = 'judge_output'")
    assert len(judged) == 2
    spent = query("SELECT sum(cost_usd) AS dollars FROM usage WHERE created_at >= '2000-01-01'")
    assert stored()["cost_usd"] == sum(entry_cost(entry) for entry in claude.ledger())
    assert spent[0]["dollars"] >= stored()["cost_usd"]
    assert "2 were skipped: only a live run" in prompts_test().stdout


def entry_cost(entry: Any) -> Decimal:
    return Decimal(str(entry.cost_usd))


def test_a_draft_is_run_as_it_is_now_by_workers_that_never_had_it(
    claude: SimulatedClaude, folder: Path, write: Callable[..., None]
) -> None:
    write(first="NotEmpty: summary")
    released = (folder / "classify_ticket" / "1.0.toml").read_text()
    draft = folder / "classify_ticket" / "1.7.toml"

    for wording in ("You sort support tickets.", "You route support tickets."):
        draft.write_text(released.replace("You triage support tickets.", wording))
        get_prompts.cache_clear()
        load_registry.cache_clear()
        assert "no reply is recorded" in (before := prompts_test().stdout) or "was edited" in before
        done = prompts_test("--live")
        assert done.exit_code == 0, done.output
        assert prompts_test().exit_code == 0
        assert stored()["version"] == "1.7"

    ran = query("SELECT DISTINCT prompt_sha256 FROM usage WHERE prompt_version = '1.7'")
    assert len(ran) == 2


def test_a_run_at_its_cap_sends_no_more_and_has_not_passed(
    claude: SimulatedClaude, write: Callable[..., None]
) -> None:
    write(a="NotEmpty: summary", b="NotEmpty: summary", c="NotEmpty: summary")

    done = prompts_test("--live", "--max-cost", "0.000001")

    assert done.exit_code == 1
    assert len(claude.ledger()) == 1
    assert done.stdout.count("✗ not sent: ") == 2
    assert "the run ended at its cost cap" in done.stdout
    assert stored()["report"]["capped"]


def test_ctrl_c_cancels_the_jobs_and_keeps_the_replies_that_came(
    claude: SimulatedClaude,
    folder: Path,
    write: Callable[..., None],
    eventually: Callable[..., None],
) -> None:
    write(quick="NotEmpty: summary", slow="NotEmpty: summary")
    claude.faults({"match": "Order slow", "stall": 60, "at": "headers", "times": None})
    command = [str(Path(sys.executable).with_name("claude-jobs"))]
    running = subprocess.Popen(
        [*command, "prompts", "test", "classify_ticket", "--live"],
        env=dict(os.environ),
        stderr=subprocess.PIPE,
        text=True,
    )
    states = "SELECT state FROM jobs ORDER BY created_at DESC, state LIMIT 2"
    eventually(
        lambda: (
            [row["state"] for row in query(states)] == ["running", "succeeded"]
            and (folder / RECORDED).exists()
        ),
        "the jobs did not run",
    )
    before = query("SELECT count(*) AS runs FROM prompt_test_runs")
    running.send_signal(signal.SIGINT)

    _, said = running.communicate(timeout=20)

    assert running.returncode == 130
    assert "interrupted: 1 jobs cancelled" in said
    assert "Traceback" not in said
    assert [each["case"] for each in recorded(folder)] == ["quick"]
    assert query("SELECT count(*) AS runs FROM prompt_test_runs") == before
    eventually(lambda: [row["state"] for row in query(states)] == ["cancelled", "succeeded"])
