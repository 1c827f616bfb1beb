"""A watched release while others decide as well, or die: the faster one decides."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from tests.integration.watch_world import World, alerts, library_in, newest, rows, states
from worker.engine import releasing
from worker.engine.prompts import PromptLibrary
from worker.storage import releases
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("producer")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(library_in(tmp_path))


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
