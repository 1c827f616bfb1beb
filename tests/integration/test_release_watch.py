"""Releases are watched, on a real Postgres: what becomes of them, and what is remembered."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.integration.watch_world import World, alerts, library_in, newest, rows, states
from worker.cli import main
from worker.settings import get_settings
from worker.storage import watches
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("producer")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(library_in(tmp_path))


def test_a_release_that_is_worse_is_rolled_back_and_people_are_told(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    bad = world.release(v1_1=100)
    world.look()
    world.calls(20, "1.1", bad, outcome="invalid_output")
    world.look()

    restored = newest()
    assert (restored.kind, restored.released_by) == ("automatic_rollback", "watchdog")
    assert restored.sha256 == {"1.0": world.library.get("t", "1.0").sha256}
    assert restored.reason == (
        "1.1 is worse than it may be: 20 of 20 first replies were not valid "
        "(100%; 1.0: 0.0% of 300)"
    )
    assert restored.evidence["release"] == bad.id
    assert restored.evidence["alarms"][0]["metric"] == "validity"
    (alert,) = alerts()
    assert (alert["kind"], alert["subject"]) == ("release_rolled_back", "t/1.1")
    assert alert["message"] == (
        f"{restored.reason}; rolled back by release {restored.id}: 1.0 100 %, for queued jobs too; "
        "nothing needs to be done tonight. What it made fail is in `claude-jobs failed`, and comes "
        "back by `claude-jobs requeue`; `claude-jobs prompts compare t 1.0 1.1` shows how they "
        "differ"
    )
    assert alert["details"]["rollback"] == restored.id
    assert states()[-1] == "rolled_back"
    world.calls(50, "1.1", bad, outcome="invalid_output")
    world.look()
    assert newest() == restored
    assert len(alerts()) == 1


def test_by_default_people_are_told_and_nothing_is_done(world: World) -> None:
    assert get_settings().watchdog == "alert"
    world.release(v1_0=100)
    world.baseline()
    bad = world.release(v1_1=100)
    world.calls(20, "1.1", bad, tokens=2000, cost=0.002)
    world.look("alert")

    assert newest() == bad
    (alert,) = alerts()
    assert alert["kind"] == "release_worse"
    assert (
        "4.7 times as long (2,010 output tokens over 20 calls; 1.0: 424 over 300)"
        in alert["message"]
    )
    assert "it still serves: `claude-jobs prompts rollback t` takes it back" in alert["message"]
    assert "\n" not in alert["message"]

    world.calls(40, "1.1", bad, tokens=2000, cost=0.02)
    world.look("alert")
    assert [row["message"].count("dear") for row in alerts()] == [0, 1]
    assert states()[-1] == "watching"


def test_a_release_that_is_as_good_is_let_be(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    good = world.release(v1_1=100)
    for _ in range(3):
        world.calls(300, "1.1", good)
        world.calls(9, "1.1", good, outcome="invalid_output")
        world.look()

    assert newest() == good
    assert not alerts()
    (watch,) = rows("SELECT * FROM release_watches WHERE state = 'watching'")
    assert watch["calls"] == 927


def test_a_watch_ends_after_its_calls_and_after_a_week(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    first = world.release(v1_1=100)
    world.calls(10_000, "1.1", first)
    world.look()
    assert states()[-1] == "passed"

    world.release(v1_2=100)
    world.look()
    with transaction() as connection:
        connection.execute(
            text("UPDATE release_watches SET started_at = now() - interval '8 days'")
        )
    world.look()
    assert states()[-1] == "passed"


def test_off_watches_nothing_and_remembers_all_the_same(world: World) -> None:
    world.release(v1_0=100)
    world.calls(300, "1.0")
    world.look("off")
    bad = world.release(v1_1=100)
    world.calls(50, "1.1", bad, outcome="refused")
    world.look("off")

    assert not alerts()
    assert states() == []
    kept = rows("SELECT prompt_version, cardinality(tokens) AS n FROM recent_replies ORDER BY 1")
    assert [tuple(row.values()) for row in kept] == [("1.0", 300), ("1.1", 50)]


def test_the_command_shows_what_is_watched_and_what_was_counted(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["claude-jobs", "prompts", "watches", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert "no release has been watched" in run()
    world.release(v1_0=100)
    world.baseline()
    current = world.release(v1_1=100)
    world.calls(95, "1.1", current, tokens=800)
    world.calls(5, "1.1", current, outcome="refused")
    world.look("alert")

    shown = run().splitlines()
    assert shown[1].split()[:5] == [str(current.id), "t", "1.1", "1.0", "watching"]
    assert shown[1].split()[-6:] == ["5.0%", "(0.0%)", "5.0%", "(0.0%)", "×1.94", "×1.00"]
    told = json.loads(run("--json"))[0]
    assert told["baseline"]["validity"] == [300, 0]
    assert told["counted"]["1.1"]["refusals"] == [100, 5]
    assert "stakes" not in str(told)


def test_the_newest_replies_of_each_version_are_kept(world: World) -> None:
    world.calls(990, "1.0", tokens=100, user="ada")
    world.look()
    world.calls(15, "1.0", tokens=900, cost=None, outcome="truncated")
    world.look()

    with transaction() as connection:
        (kept,) = watches.recent_replies(connection, "t")
    assert [len(each) for each in (kept.outcomes, kept.tokens, kept.costs, kept.users)] == [
        1000
    ] * 4
    assert kept.outcomes == ["ok"] * 985 + ["truncated"] * 15
    assert kept.costs == [200_000] * 985 + [None] * 15
    assert len(set(kept.users[:985])) == 1
    assert kept.users[985:] == [None] * 15
    assert min(kept.tokens[985:]) >= 900


def test_more_replies_at_once_than_are_kept(world: World) -> None:
    world.calls(700, "1.0", tokens=100)
    world.look()
    world.calls(1000, "1.0", tokens=500)
    world.look()

    with transaction() as connection:
        (kept,) = watches.recent_replies(connection, "t")
    assert len(kept.tokens) == 1000
    assert min(kept.tokens) >= 500


def test_what_a_watch_counts_is_the_same_however_calls_are_batched(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    progress = []
    for batches in ((60,), (1, 9, 50)):
        current = world.release(v1_1=100)
        for number in batches:
            world.calls(number, "1.1", current, tokens=500)
            world.look()
        (watch,) = rows("SELECT progress FROM release_watches WHERE state = 'watching'")
        progress.append(json.dumps(watch["progress"]["tallies"]["1.1"]["validity"]))
        world.rollback()
        world.look()

    assert progress[0] == progress[1]
