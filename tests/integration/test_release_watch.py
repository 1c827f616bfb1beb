"""Releases are watched, on a real Postgres: each call counts once, and the faster one decides."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from worker.cli import main
from worker.engine import releasing
from worker.engine.alerts import AlertLoop
from worker.engine.prompts import PromptLibrary
from worker.engine.releasewatch import ReleaseWatcher
from worker.settings import get_settings
from worker.storage import releases, watches
from worker.storage.engine import transaction
from worker.storage.releases import Release

pytestmark = pytest.mark.usefixtures("producer")

_INSERT = text("""
INSERT INTO usage (task, attempt, call, outcome, model, prompt, prompt_version, prompt_sha256,
                   variant, user_id, output_tokens, cost_usd, cache_write_5m_tokens, complete,
                   finished_at)
SELECT 't', :attempt, :call, :outcome, 'm', 't', :version, :sha256, :variant,
       CASE WHEN :user <> '' THEN :user END, :tokens + n % 50, :cost, :written, true, now()
FROM generate_series(1, :number) AS n
""")


#: Gives the API's errors a job each that has failed for it.
_FAIL = text("""
WITH made AS (
    INSERT INTO jobs (task, input, state, finished_at, error)
    SELECT 't', '{}', 'failed', now(), cast(:error AS jsonb) FROM usage
    WHERE outcome = 'api_error' AND job_id IS NULL
    RETURNING id
), numbered AS (
    SELECT id, row_number() OVER () AS n FROM made
)
UPDATE usage SET job_id = numbered.id
FROM (SELECT id AS usage_id, row_number() OVER () AS n FROM usage
      WHERE outcome = 'api_error' AND job_id IS NULL) AS errors JOIN numbered USING (n)
WHERE usage.id = usage_id
""")


@pytest.fixture
def library(tmp_path: Path) -> PromptLibrary:
    """Versions 1.0, 1.1 and 1.2 of the prompt `t`."""
    (tmp_path / "t").mkdir()
    for version in ("1.0", "1.1", "1.2"):
        content = f"model = 'm-{version}'\nmax_tokens = 9\nsystem = 's'\ntemplate = '{{{{ x }}}}'\n"
        (tmp_path / "t" / f"{version}.toml").write_text(content)
    return PromptLibrary.load(tmp_path)


@pytest.fixture
def world(library: PromptLibrary) -> World:
    return World(library)


class World:
    """Releases, calls that end, and the loop that looks at them."""

    def __init__(self, library: PromptLibrary) -> None:
        self.library = library

    def release(self, **shares: float) -> Release:
        """`v1_0=90, v1_1=10`."""
        points = {k[1:].replace("_", "."): round(v * 100) for k, v in shares.items()}
        with transaction() as connection:
            return releasing.release(connection, self.library, "t", points, by="ada")

    def rollback(self) -> Release:
        with transaction() as connection:
            made = releasing.rollback(connection, self.library, "t", by="bob")
        assert made is not None
        return made

    def calls(
        self, number: int, version: str, variant: str | Release = "highest", **columns: Any
    ) -> None:
        values = {
            "attempt": 1,
            "call": 1,
            "outcome": "ok",
            "tokens": 400,
            "cost": 0.002,
            "written": 0,
            "user": "",
            "sha256": self.library.get("t", version).sha256,
        }
        chosen = variant if isinstance(variant, str) else f"release:{variant.id}"
        row = values | columns | {"number": number, "version": version, "variant": chosen}
        with transaction() as connection:
            connection.execute(_INSERT, row)

    def loop(self, mode: str = "rollback") -> AlertLoop:
        settings = get_settings().model_copy(update={"watchdog": mode})
        return AlertLoop({"t": 10**6}, ReleaseWatcher(settings, self.library))

    def look(self, mode: str = "rollback") -> None:
        loop = self.loop(mode)
        while loop.step() == 0:
            pass

    def baseline(self, number: int = 300) -> None:
        self.calls(number, "1.0")
        self.look()


def rows(statement: str) -> Sequence[Any]:
    with transaction() as connection:
        return connection.execute(text(statement)).mappings().all()


def alerts() -> Sequence[Any]:
    return rows("SELECT * FROM alerts WHERE kind LIKE 'release%' ORDER BY first_at, kind")


def states() -> list[str]:
    return [row["state"] for row in rows("SELECT state FROM release_watches ORDER BY release_id")]


def newest() -> Release:
    with transaction() as connection:
        return releases.history(connection, "t")[0]


# What becomes of a release.


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


# What is compared with what.


def test_the_first_release_is_compared_with_what_served_before_it(world: World) -> None:
    world.baseline()
    bad = world.release(v1_1=100)
    world.calls(20, "1.1", bad, outcome="truncated")
    world.look()

    assert newest().kind == "automatic_rollback"
    assert newest().weights == {"1.0": 100.0}
    assert "refused or cut off" in newest().reason


@pytest.mark.parametrize("shares", [{"v1_0": 100}, {"v1_0": 60, "v1_1": 40}])
def test_a_first_release_of_an_older_version_is_rolled_back_as_well(
    world: World, shares: dict[str, float]
) -> None:
    world.calls(300, "1.1")
    world.look()
    bad = world.release(**shares)
    world.look()
    world.calls(100, "1.0", bad, outcome="refused")
    world.look()

    assert states() == ["rolled_back"]
    (newest,) = rows("SELECT * FROM prompt_releases ORDER BY id DESC LIMIT 1")
    assert (newest["kind"], newest["weights"]) == ("automatic_rollback", {"1.1": 100})


def test_a_first_release_without_anything_before_it_is_only_told_of(world: World) -> None:
    first = world.release(v1_0=100)
    world.calls(60, "1.0", first, outcome="invalid_output")
    world.look()

    assert newest() == first
    (alert,) = alerts()
    assert alert["kind"] == "release_worse"
    assert "60 of 60 first replies were not valid (100%)" in alert["message"]
    assert "there is nothing to compare it with, so it still serves" in alert["message"]


def test_the_same_version_again_is_no_release_to_watch(world: World) -> None:
    world.baseline()
    world.release(v1_0=100)
    world.look()

    assert states() == ["passed"]


def test_each_new_version_is_held_against_the_one_that_lost_the_most(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    mixed = world.release(v1_0=50, v1_1=25, v1_2=25)
    world.calls(40, "1.0", mixed)
    world.calls(40, "1.1", mixed)
    world.calls(40, "1.2", mixed, outcome="invalid_output")
    world.look()

    assert newest().kind == "automatic_rollback"
    assert newest().reason.startswith("1.2 is worse than it may be")
    assert "1.1" not in newest().reason


def test_the_old_version_getting_worse_beside_it_is_not_the_release(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    half = world.release(v1_0=50, v1_1=50)
    world.look()
    world.calls(40, "1.0", half, outcome="refused")
    world.calls(40, "1.1", half, outcome="refused")
    world.look()

    assert newest() == half
    (alert,) = alerts()
    assert "1.0, which serves beside it, has become so as well" in alert["message"]
    assert states()[-1] == "shared"


def test_pinned_jobs_later_attempts_repairs_and_other_releases_do_not_count(world: World) -> None:
    before = world.release(v1_0=100)
    world.baseline()
    current = world.release(v1_1=100)
    bad = {"outcome": "invalid_output"}
    world.calls(50, "1.1", "pinned", **bad)
    world.calls(50, "1.1", current, attempt=2, **bad)
    world.calls(50, "1.1", current, call=2, **bad)
    world.calls(50, "1.0", before, **bad)
    world.calls(50, "1.1", current, outcome="overloaded")
    world.look()

    assert newest() == current
    assert not alerts()


def test_requests_that_the_api_does_not_take_count_and_its_outages_do_not(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    current = world.release(v1_1=100)
    for status, expected in (("500", "release"), ("401", "release"), ("404", "automatic_rollback")):
        world.calls(30, "1.1", current, outcome="api_error", tokens=0, cost=None)
        with transaction() as connection:
            connection.execute(_FAIL, {"error": json.dumps({"type": "t", "status": int(status)})})
        world.look()
        assert newest().kind == expected
    assert "30 of 30 first replies were not valid" in newest().reason


def test_calls_that_fill_the_cache_do_not_make_a_version_look_dear(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    current = world.release(v1_1=100)
    world.calls(100, "1.1", current, cost=0.02, written=9000)
    world.look()
    assert newest() == current

    world.calls(100, "1.1", current, cost=0.02)
    world.look()
    assert "times as dear" in newest().reason


def test_a_rollback_is_not_watched(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    world.release(v1_1=100)
    back = world.rollback()
    world.calls(50, "1.0", back, outcome="invalid_output")
    world.look()

    assert newest() == back
    assert not alerts()


def test_limits_that_were_agreed_on_for_a_release_hold_for_it(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    with transaction() as connection:
        dearer = releasing.release(
            connection,
            world.library,
            "t",
            {"1.1": 10_000},
            by="ada",
            evidence={"watch": {"cost": 12, "length": "no number", "nonsense": 1}},
        )
    world.calls(300, "1.1", dearer, cost=0.02)
    world.look()
    assert newest() == dearer

    world.calls(300, "1.1", dearer, cost=0.05)
    world.look()
    assert newest().kind == "automatic_rollback"


# Whoever is faster, and whoever dies.


def test_a_release_or_a_rollback_by_a_person_meanwhile_stands(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    for meanwhile in (lambda: world.release(v1_2=100), world.rollback):
        bad = world.release(v1_1=100)
        world.look()
        world.calls(50, "1.1", bad, outcome="invalid_output")
        decided = meanwhile()
        world.look()
        assert newest() == decided
    assert not alerts()
    assert set(states()) == {"superseded"}


def test_a_person_who_releases_at_the_very_moment_is_waited_for_and_not_overruled(
    world: World,
) -> None:
    world.release(v1_0=100)
    world.baseline()
    bad = world.release(v1_1=100)
    world.look()
    world.calls(50, "1.1", bad, outcome="invalid_output")

    with transaction() as person:
        decided = releasing.release(person, world.library, "t", {"1.2": 10_000}, by="ada")
        looking = Thread(target=world.look)
        looking.start()
        waiting = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while rows(waiting)[0]["n"] == 0:
            assert looking.is_alive()
    looking.join(30)

    assert newest() == decided
    assert not alerts()
    world.look()
    assert states() == ["superseded", "superseded", "watching"]


def test_two_workers_that_look_at_once_roll_back_once(world: World) -> None:
    world.release(v1_0=100)
    world.baseline()
    bad = world.release(v1_1=100)
    world.calls(50, "1.1", bad, outcome="invalid_output")
    barrier = Barrier(4)

    def worker() -> None:
        loop = world.loop()
        barrier.wait(30)
        for _ in range(5):
            loop.step()

    threads = [Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    with transaction() as connection:
        kinds = [release.kind for release in releases.history(connection, "t")]
    assert kinds == ["automatic_rollback", "release", "release"]
    assert len(alerts()) == 1


def test_a_worker_that_dies_in_between_has_done_nothing_and_the_next_does_it_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.release(v1_0=100)
    world.baseline()
    bad = world.release(v1_1=100)
    world.look()
    world.calls(6, "1.1", bad, outcome="invalid_output")
    world.look()
    before = rows("SELECT * FROM release_watches WHERE state = 'watching'")
    world.calls(20, "1.1", bad, outcome="invalid_output")

    def die(*_: Any, **__: Any) -> None:
        raise OperationalError("killed", None, Exception("killed"))

    with monkeypatch.context() as patch:
        patch.setattr("worker.storage.watches.append_replies", die)
        with pytest.raises(OperationalError, match="killed"):
            world.loop().step()
    assert newest() == bad
    assert not alerts()
    assert rows("SELECT * FROM release_watches WHERE state = 'watching'") == before

    world.look()
    assert newest().kind == "automatic_rollback"
    assert "26 of 26 first replies" in newest().reason


def test_what_cannot_be_rolled_back_is_told(world: World, tmp_path: Path) -> None:
    world.baseline()
    bad = world.release(v1_1=100)
    world.calls(20, "1.1", bad, outcome="invalid_output")
    (tmp_path / "t" / "1.0.toml").unlink()
    world.library = PromptLibrary.load(tmp_path)
    world.look()

    assert newest() == bad
    (alert,) = alerts()
    assert "could not be rolled back: " in alert["message"]
    assert "1.0" in alert["message"].partition("could not be rolled back: ")[2]


# What is remembered.


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
