"""`claude-jobs prompts release`, `rollback`, `history`: what is let through, what is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.integration.command import Rows, Run
from worker.engine.evidence import upper_bound
from worker.engine.prompts import PromptLibrary
from worker.settings import PROJECT
from worker.storage import review_samples, reviews
from worker.storage.engine import build_engine
from worker.storage.review_samples import NewSample
from worker.storage.reviews import Verdict

NAME = "analyze_document"
#: The highest version serves where nothing was released: this is the one that is new.
NEW, OLD = "1.0", "1.1"
TEST = ("prompts", "test", NAME, "--version", NEW)
RELEASE = ("prompts", "release", NAME, NEW)
INSIST = ("--force", "--reason", "[urgent]")


@pytest.fixture
def connection(environment: dict[str, str]) -> Iterator[Connection]:
    """Commits by itself."""
    engine = build_engine(environment["DATABASE_URL"], isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def have_read(connection: Connection, samples: int, verdict: str = "same") -> None:
    """Let Ada judge so many samples of the new version."""
    prompt = PromptLibrary.load(PROJECT / "prompts").get(NAME, NEW)
    with connection.begin():
        review = reviews.open_review(
            connection,
            task=NAME,
            prompt=NAME,
            version=NEW,
            prompt_sha256=prompt.sha256,
            baseline_version=None,
            baseline_sha256=None,
            created_by="ada",
        )
        known = len(review_samples.samples(connection, review.id))
        new = [
            NewSample("file", {"n": n}, f"{n:064}", candidate_left=True)
            for n in range(known, known + samples)
        ]
        review_samples.add_samples(connection, review.id, new)
        for number in range(known + 1, known + samples + 1):
            reviews.add_verdict(
                connection, review.id, Verdict(sample=number, reviewer="Ada", verdict=verdict)
            )


def columns(out: str) -> list[list[str]]:
    """A printed table's rows, cut where two spaces or more stand."""
    lines = [line.rstrip() for line in out.splitlines() if line.strip()]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_a_new_version_needs_its_cases_passed_and_samples_read(
    run: Run, connection: Connection, rows: Rows
) -> None:
    assert run(*RELEASE).line == (
        f"claude-jobs: {NAME}/{NEW} is not ready: this content was never tested: "
        f"`claude-jobs prompts test {NAME} --version {NEW} --live`; 0 of 10 samples were read: "
        f'`claude-jobs prompts review {NAME} {NEW}`; or insist: --force --reason "…"'
    )
    assert run(*TEST).code == 0
    have_read(connection, 9)
    refused = run(*RELEASE).line
    assert "never tested" not in refused
    assert "9 of 10 samples were read" in refused
    assert rows("SELECT * FROM prompt_releases") == []

    have_read(connection, 6)
    made = run(*RELEASE)
    (skipped,) = (row["skipped"] for row in rows("SELECT skipped FROM prompt_test_runs"))

    assert made.err == (
        f"release 1: {NAME} {NEW} 100 %\n{NAME}/{NEW}: its cases passed against recorded replies, "
        f"without {skipped} expectations that only a live run can judge; 15 samples without an "
        "unacceptable one bound the share of unacceptable outputs below 18 % only, at 95 % "
        "confidence, for inputs like those\n"
    )
    (row,) = rows("SELECT forced, evidence FROM prompt_releases")
    evidence = row["evidence"][NEW]
    assert not row["forced"]
    assert evidence["test_run"]["passed"]
    assert evidence["verdicts"] == {"same": 15}
    assert evidence["proves"].startswith("15 samples")
    told = {(each["prompt"], each["version"]): each for each in _listed(run)}
    assert told[NAME, NEW]["serves_percent"] == 100
    assert told[NAME, NEW]["evidence"] == evidence


def _listed(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("prompts", "list", "--json").out)
    return found


def test_an_unacceptable_sample_stands_against_it(run: Run, connection: Connection) -> None:
    run(*TEST)
    have_read(connection, 12)
    have_read(connection, 1, "unacceptable")

    assert "is not ready: 1 samples are unacceptable to somebody" in run(*RELEASE).line
    made = run(*RELEASE, *INSIST)
    assert "; 1 of 13 samples are unacceptable to somebody" in made.err


def test_a_test_that_failed_or_is_older_than_the_cases_does_not_count(
    run: Run, connection: Connection
) -> None:
    have_read(connection, 10)
    run(*TEST)
    connection.execute(text("UPDATE prompt_test_runs SET cases_sha256 = 'earlier'"))
    assert "the cases have changed since its last test" in run(*RELEASE).line

    run(*TEST)
    newest = "id = (SELECT id FROM prompt_test_runs ORDER BY created_at DESC LIMIT 1)"
    connection.execute(text(f"UPDATE prompt_test_runs SET passed = false WHERE {newest}"))
    assert "its last test did not pass" in run(*RELEASE).line


def test_recorded_replies_do_not_make_good_what_a_live_run_found(
    run: Run, connection: Connection
) -> None:
    """A failed live run leaves its replies, and recorded they are judged by less."""
    have_read(connection, 10)
    run(*TEST)
    connection.execute(text("UPDATE prompt_test_runs SET mode = 'live', passed = false"))
    run(*TEST)
    assert (
        f"its last live test did not pass: `claude-jobs prompts test {NAME} --version {NEW} --live`"
        in run(*RELEASE).line
    )

    connection.execute(text("UPDATE prompt_test_runs SET passed = true"))
    assert run(*RELEASE).code == 0


def test_who_insists_is_on_record(run: Run, rows: Rows) -> None:
    for no_reason in ((), ("--reason", " ")):
        assert "--force goes with --reason" in run(*RELEASE, "--force", *no_reason).line

    assert run(*RELEASE, *INSIST).code == 0

    (row,) = rows("SELECT forced, reason, evidence FROM prompt_releases")
    assert (row["forced"], row["reason"]) == (True, "[urgent]")
    assert row["evidence"][NEW]["proves"] == "nobody has read a sample"
    assert "release, forced" in run("prompts", "history", NAME).out


def test_the_reviews_can_be_set_to_none(run: Run) -> None:
    run(*TEST)

    assert run(*RELEASE, CLAUDE_JOBS_RELEASE_REVIEWS="0").code == 0


def test_what_serves_already_needs_nothing(run: Run, rows: Rows) -> None:
    assert run("prompts", "release", NAME, OLD).code == 0
    assert run("prompts", "release", NAME, f"{OLD}=90", f"{NEW}=10", *INSIST).code == 0
    assert run("prompts", "release", NAME, f"{OLD}=95", f"{NEW}=5").code == 0

    assert [row["forced"] for row in rows("SELECT forced FROM prompt_releases ORDER BY id")] == [
        False,
        True,
        False,
    ]


def test_a_trial_that_somebody_insisted_on_does_not_grow_by_itself(
    run: Run, connection: Connection
) -> None:
    run("prompts", "release", NAME, f"{OLD}=99", f"{NEW}=1", *INSIST)
    assert f"{NAME}/{NEW} is not ready" in run("prompts", "release", NAME, NEW).line

    run(*TEST)
    have_read(connection, 10)
    assert run("prompts", "release", NAME, NEW).code == 0


@pytest.mark.parametrize(("ran", "asked"), [("1.0", "1.1"), ("1.1", "1.0")])
def test_before_the_first_release_that_serves_which_workers_chose(
    run: Run, connection: Connection, ran: str, asked: str
) -> None:
    """A file that was added here may be new to the workers, and to whoever gets its output."""
    sha256 = PromptLibrary.load(PROJECT / "prompts").get(NAME, ran).sha256
    connection.execute(
        text("""INSERT INTO usage (task, attempt, call, outcome, model, prompt, prompt_version,
                                   prompt_sha256, price_version, variant, finished_at)
                VALUES (:name, 1, 1, 'ok', 'm', :name, :version, :sha256, 'p', 'highest', now())
        """),
        {"name": NAME, "version": ran, "sha256": sha256},
    )

    refused = run("prompts", "release", NAME, "1.0=90", "1.1=10").line
    assert f"{NAME}/{asked} is not ready" in refused
    assert f"{NAME}/{ran} is not ready" not in refused
    assert run("prompts", "release", NAME, ran).code == 0


def test_who_insists_needs_no_cases(run: Run, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "prompts", tmp_path / "prompts")
    (tmp_path / "prompts" / NAME / "cases.yaml").unlink()
    folder = {"CLAUDE_JOBS_PROMPTS_DIR": str(tmp_path / "prompts")}

    refused = run(*RELEASE, **folder)
    assert refused.code == 1
    assert f"prompt {NAME} has no cases" in refused.err
    assert run(*RELEASE, *INSIST, **folder).code == 0
    beside = (NAME, f"{NEW}=60", f"{OLD}=40")
    assert run("prompts", "release", *beside, *INSIST, **folder).code == 0


def test_what_serves_is_changed_and_told(run: Run) -> None:
    shares = (f"{OLD}=90", f"{NEW}=10")
    first = run("prompts", "release", NAME, *shares, *INSIST)
    assert first.err.startswith(f"release 1: {NAME} {OLD} 90 %, {NEW} 10 %\n")
    told = {each["version"]: each for each in _listed(run) if each["prompt"] == NAME}
    assert {version: each["serves_percent"] for version, each in told.items()} == {OLD: 90, NEW: 10}

    assert run("prompts", "release", NAME, OLD).code == 0
    back = run("prompts", "rollback", NAME, "--reason", "longer")
    assert back.err == f"release 3: {NAME} is back at {OLD} 90 %, {NEW} 10 %\n"

    history = columns(run("prompts", "history", NAME).out)
    assert [row[0] for row in history] == ["release", "3", "2", "1"]
    assert history[1][2] == "rollback to 1"
    assert history[3][-1] == "[urgent]"
    as_json = json.loads(run("prompts", "history", NAME, "--json").out)
    assert as_json[0]["restores"] == 1
    assert as_json[0]["weights"] == {OLD: 90, NEW: 10}


def test_what_serves_is_listed_though_its_file_is_gone_or_says_something_else(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "prompts"
    shutil.copytree(PROJECT / "prompts", folder)
    here = {"CLAUDE_JOBS_PROMPTS_DIR": str(folder)}
    run("prompts", "release", NAME, f"{OLD}=90", f"{NEW}=10", *INSIST)
    file = folder / NAME / f"{OLD}.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("You ", "You always ", 1), "utf-8")
    (folder / NAME / f"{NEW}.toml").unlink()

    listed = json.loads(run("prompts", "list", "--json", **here).out)

    shares = [
        (each["version"], each["serves_percent"]) for each in listed if each["prompt"] == NAME
    ]
    assert sorted(shares) == [(NEW, 10), (OLD, 0), (OLD, 90)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["release", "nonsense", "1.0"], "no prompt 'nonsense': add prompts/nonsense/1.0.toml"),
        (["release", NAME, "7"], "has no version '7'; it has 1.0, 1.1"),
        (["release", NAME, "1.1=50"], "the shares add up to 50 %, not to 100 %"),
        (["rollback", "nonsense"], "no prompt 'nonsense'"),
        (["rollback", NAME], "no earlier release: name the version to go back to"),
        (["rollback", NAME, OLD], "1.1 never served: a rollback goes back"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    run: Run, rows: Rows, arguments: list[str], expected: str
) -> None:
    assert expected in run("prompts", *arguments).line
    assert rows("SELECT * FROM prompt_releases") == []


@pytest.mark.parametrize(("clean", "bound"), [(1, 0.95), (10, 0.259), (15, 0.181), (299, 0.00997)])
def test_what_clean_samples_exclude(clean: int, bound: float) -> None:
    assert upper_bound(clean) == pytest.approx(bound, rel=0.01)
    # What it means: had so large a share been bad, so many clean ones would be a 5 % accident.
    assert (1 - upper_bound(clean)) ** clean == pytest.approx(0.05)
