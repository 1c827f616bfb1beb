"""Going back, and the history of releases, which nobody can change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from tests.integration.release_world import (
    WHO,
    Process,
    back,
    library_in,
    put,
    write,
)
from worker.engine import releasing
from worker.engine.prompts import PromptLibrary
from worker.errors import InvalidInput, UnknownPromptVersion
from worker.storage import releases
from worker.storage.engine import transaction


@pytest.fixture
def library(tmp_path: Path) -> PromptLibrary:
    return library_in(tmp_path)


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with transaction(engine) as connection:
        yield connection


class TestGoingBack:
    def test_each_rollback_goes_one_release_further(
        self, engine: Engine, library: PromptLibrary
    ) -> None:
        for shares in ({"v1_0": 100}, {"v1_1": 100}, {"v1_2": 100}):
            put(engine, library, **shares)

        served = [back(engine, library).weights for _ in range(2)]

        assert served == [{"1.1": 100}, {"1.0": 100}]
        with pytest.raises(InvalidInput, match=r"t has no earlier release: name the version"):
            back(engine, library)
        put(engine, library, v1_2=100)
        assert back(engine, library).weights == {"1.0": 100}

    def test_it_can_name_an_earlier_version_with_the_content_it_had(
        self, engine: Engine, library: PromptLibrary, tmp_path: Path
    ) -> None:
        put(engine, library, v1_1=100)
        put(engine, library, v1_2=100)
        write(tmp_path, "1.1", template="{{ text }} edited")

        made = back(engine, PromptLibrary.load(tmp_path), "1.1")

        assert made.sha256 == {"1.1": library.get("t", "1.1").sha256}
        assert Process(library).choose(engine).prompt.version == "1.1"

    def test_a_version_older_than_what_serves_needs_no_release_before(
        self, engine: Engine, library: PromptLibrary
    ) -> None:
        assert back(engine, library, "1.0").weights == {"1.0": 100}

    def test_a_version_that_never_served_is_no_way_back(
        self, engine: Engine, library: PromptLibrary
    ) -> None:
        put(engine, library, v1_1=100)

        with pytest.raises(InvalidInput, match=r"t/1.2 never served: a rollback goes back"):
            back(engine, library, "1.2")
        with pytest.raises(UnknownPromptVersion):
            back(engine, library, "9")

    def test_a_version_that_some_users_had_is_no_way_back(
        self, engine: Engine, library: PromptLibrary
    ) -> None:
        put(engine, library, v1_0=90, v1_1=10)

        with pytest.raises(InvalidInput, match=r"t/1.1 never served everybody: a rollback goes"):
            back(engine, library, "1.1")
        assert back(engine, library, "1.0").weights == {"1.0": 100}

    @pytest.mark.parametrize("released", [["1.1"], ["1.0", "1.1"]])
    def test_after_one_to_a_named_version_it_does_not_go_on_again(
        self, engine: Engine, library: PromptLibrary, released: list[str]
    ) -> None:
        for version in released:
            put(engine, library, **{f"v{version.replace('.', '_')}": 100})
        back(engine, library, "1.0")

        with pytest.raises(InvalidInput, match=r"t has no earlier release"):
            back(engine, library)
        put(engine, library, v1_2=100)
        assert back(engine, library).weights == {"1.0": 100}
        with pytest.raises(InvalidInput, match=r"t has no earlier release"):
            back(engine, library)

    def test_it_does_nothing_when_somebody_else_was_faster(
        self, engine: Engine, library: PromptLibrary, connection: Connection
    ) -> None:
        watched = put(engine, library, v1_0=100)
        put(engine, library, v1_1=100)

        made = releasing.rollback(
            connection, library, "t", by="watchdog", only_from=watched.id, reason="drift"
        )

        assert made is None


def test_a_release_that_changes_nothing_is_refused(engine: Engine, library: PromptLibrary) -> None:
    put(engine, library, v1_0=90, v1_1=10)

    with pytest.raises(InvalidInput, match=r"nothing to do: release 1 of t says just that"):
        put(engine, library, v1_1=10, v1_0=90)


def waiters(engine: Engine) -> int:
    """Connections that wait for somebody else's release."""
    with transaction(engine) as connection:
        counted = connection.execute(
            text("""SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event = 'advisory'""")
        )
        return int(counted.scalar_one())


class TestTheHistory:
    @pytest.mark.parametrize(
        "statement", ["UPDATE prompt_releases SET reason = 'x'", "DELETE FROM prompt_releases"]
    )
    def test_it_only_grows(self, engine: Engine, library: PromptLibrary, statement: str) -> None:
        put(engine, library, v1_0=100)

        with (
            pytest.raises(DBAPIError, match="prompt_releases is a history"),
            transaction(engine) as c,
        ):
            c.execute(text(statement))

    def test_numbers_are_in_the_order_of_commits(
        self,
        engine: Engine,
        library: PromptLibrary,
        environment: dict[str, str],
        eventually: Callable[..., None],
    ) -> None:
        """Whoever inserts by hand waits for an earlier release, before the number is drawn."""
        insert = """INSERT INTO prompt_releases (prompt, kind, weights, sha256, allocation,
                    released_by, reason)
                    VALUES ('t', 'release', '{}', '{}', '[["1.0", 0, 10000]]', 'x', '')"""
        done = threading.Event()

        def by_hand() -> None:
            with psycopg.connect(environment["DATABASE_URL"]) as other:
                other.execute(insert)
            done.set()

        with transaction(engine) as connection:
            mine = releasing.release(connection, library, "t", {"1.0": 10_000}, **WHO)
            thread = threading.Thread(target=by_hand)
            thread.start()
            eventually(lambda: waiters(engine) == 1, "the second release did not wait")
            assert not done.is_set()
        thread.join(10)

        with transaction(engine) as connection:
            assert [each.id for each in releases.history(connection, "t")] == [mine.id + 1, mine.id]
