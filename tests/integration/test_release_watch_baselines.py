"""What a watched release is compared with, and which calls count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.integration.watch_world import World, alerts, library_in, newest, rows, states
from worker.engine import releasing
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("producer")

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
def world(tmp_path: Path) -> World:
    return World(library_in(tmp_path))


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
