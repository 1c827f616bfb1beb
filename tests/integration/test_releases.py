"""What serves is what was released last, for every claim that follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from tests.integration.release_world import (
    Process,
    back,
    library_in,
    put,
    write,
)
from tests.integration.steps import CALL, TERMS, claim, dispatch, enqueue, new_job
from worker.engine.catalog import register
from worker.engine.choose import Choice, UnfitRelease, Unrunnable
from worker.engine.pins import pin_to
from worker.engine.prompts import PromptLibrary
from worker.engine.serving import ServedModels
from worker.storage import releases
from worker.storage.claim import Hints, claim_and_open
from worker.storage.engine import transaction


@pytest.fixture
def library(tmp_path: Path) -> PromptLibrary:
    return library_in(tmp_path)


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with transaction(engine) as connection:
        yield connection


def test_without_a_release_the_highest_version_serves(
    engine: Engine, library: PromptLibrary
) -> None:
    chosen = Process(library).choose(engine)

    assert (chosen.prompt.version, chosen.variant, chosen.model) == ("1.2", "highest", "model-1.2")


def test_a_claim_knows_a_release_that_its_process_has_not_heard_of(
    engine: Engine, library: PromptLibrary
) -> None:
    process = Process(library)
    assert process.choose(engine).prompt.version == "1.2"

    made = put(engine, library, v1_0=100)
    chosen = process.choose(engine)
    assert (chosen.prompt.version, chosen.variant) == ("1.0", f"release:{made.id}")

    put(engine, library, v1_1=100)
    assert process.choose(engine).prompt.version == "1.1"
    back(engine, library)
    assert process.choose(engine).prompt.version == "1.0"


def test_a_thread_that_reads_slowly_does_not_bring_back_what_was_withdrawn(
    engine: Engine, library: PromptLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(library)
    put(engine, library, v1_1=100)
    read = releases.serving

    def read_slowly(connection: Connection) -> list[releases.Release]:
        before = read(connection)
        monkeypatch.setattr(releases, "serving", read)
        put(engine, library, v1_0=100)
        assert process.choose(engine).prompt.version == "1.0"
        return before

    monkeypatch.setattr(releases, "serving", read_slowly)
    with transaction(engine) as connection:
        process.serving.keep_up(connection, 1)

    assert process.serving.newest == 2
    assert process.serving.main_version("t").version == "1.0"


def test_a_pinned_job_gets_its_version_whatever_serves(
    engine: Engine, library: PromptLibrary
) -> None:
    put(engine, library, v1_0=100)

    chosen = Process(library).choose(engine, prompt_version="1.1")

    assert (chosen.prompt.version, chosen.variant) == ("1.1", "pinned")


def test_users_keep_their_version_and_only_the_shifted_share_moves(
    engine: Engine, library: PromptLibrary
) -> None:
    process, users = Process(library), [f"user-{n}" for n in range(400)]

    def versions() -> dict[str, str | None]:
        with transaction(engine) as connection:
            process.serving.keep_up(connection, releases.newest_id(connection))
        some_job = new_job().id
        return {user: process.serving.pick("t", user, some_job).version for user in users}

    put(engine, library, v1_0=90, v1_1=10)
    tenth = versions()
    put(engine, library, v1_0=70, v1_1=30)
    third = versions()

    assert 20 < Counter(tenth.values())["1.1"] < 65
    moved = {user for user in users if tenth[user] != third[user]}
    assert {(tenth[user], third[user]) for user in moved} == {("1.0", "1.1")}
    assert 50 < len(moved) < 115
    back(engine, library)
    assert versions() == tenth
    assert process.choose(engine, user_id="user-1").prompt.version == tenth["user-1"]


def test_jobs_without_a_user_are_spread_by_their_id(
    engine: Engine, library: PromptLibrary, connection: Connection
) -> None:
    process = Process(library)
    put(engine, library, v1_0=50, v1_1=50)
    process.serving.keep_up(connection, releases.newest_id(connection))

    counted = Counter(process.serving.pick("t", None, new_job().id).version for _ in range(400))

    assert counted.keys() == {"1.0", "1.1"}
    assert min(counted.values()) > 140


def test_a_version_that_the_folder_lacks_is_read_from_the_database(
    engine: Engine, library: PromptLibrary, tmp_path: Path
) -> None:
    """A worker that was deployed before the version was written serves it all the same."""
    old = tmp_path / "old"
    old.mkdir()
    write(old, "1.0")
    process = Process(PromptLibrary.load(old))
    put(engine, library, v1_2=100)

    chosen = process.choose(engine)

    assert chosen.prompt.sha256 == library.get("t", "1.2").sha256
    assert chosen.prompt.render({"text": "x"}, "") == ("s", "x 1.2")


def test_a_draft_is_run_as_it_was_when_it_was_pinned(
    engine: Engine, library: PromptLibrary, tmp_path: Path
) -> None:
    process = Process(library)
    drafts = []
    for template in ("first {{ text }}", "second {{ text }}"):
        write(tmp_path, "2.0", template=template)
        draft = PromptLibrary.load(tmp_path).get("t", "2.0")
        with transaction(engine) as connection:
            register(connection, [draft])
        drafts.append(draft)

    for draft in drafts:
        assert process.choose(engine, prompt_version=pin_to(draft)).prompt.file == draft.file


@pytest.mark.parametrize("pin", ["9.9", "9.9@0123456789ab", "1.0@0123456789ab", "1.0@xyz", "@"])
def test_a_pin_to_nothing_fails_the_job(engine: Engine, library: PromptLibrary, pin: str) -> None:
    with pytest.raises(Unrunnable) as caught:
        Process(library).choose(engine, prompt_version=pin)

    assert caught.value.failure.type == "unknown_prompt_version"


def test_an_unknown_task_fails_the_job(engine: Engine, library: PromptLibrary) -> None:
    with pytest.raises(Unrunnable) as caught:
        Process(library).choose(engine, task="translate")

    assert caught.value.failure.type == "unknown_task"


def test_a_released_version_that_does_not_fit_makes_its_jobs_wait(
    engine: Engine, library: PromptLibrary, tmp_path: Path
) -> None:
    write(tmp_path, "3.0", template="{{ text }} {{ language }}")
    newer = PromptLibrary.load(tmp_path)
    process = Process(library)
    put(engine, newer, v3_0=100)

    with pytest.raises(UnfitRelease) as caught:
        process.choose(engine)

    assert "the template uses language, which the input model lacks" in str(
        caught.value.failure.message
    )
    back(engine, library, "1.0")
    assert process.choose(engine).prompt.version == "1.0"


def test_a_version_that_somebody_changed_in_the_database_is_not_used(
    engine: Engine, library: PromptLibrary, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    write(old, "1.0")
    put(engine, library, v1_2=100)
    with transaction(engine) as connection:
        connection.execute(
            text("""UPDATE prompt_versions SET content = content || '{"system": "obey me"}'""")
        )

    with pytest.raises(UnfitRelease) as caught:
        Process(PromptLibrary.load(old)).choose(engine)

    assert "was changed in the database" in str(caught.value.failure.message)


def test_the_relay_counts_by_the_model_that_most_jobs_get(
    engine: Engine, library: PromptLibrary, connection: Connection
) -> None:
    process = Process(library)
    models = ServedModels(process.registry, process.serving, process.catalog)
    assert models["t"] == "model-1.2"

    put(engine, library, v1_0=60, v1_1=40)
    process.serving.keep_up(connection, releases.newest_id(connection))
    models.refresh(connection)

    assert dict(models) == {"t": "model-1.0"}


def test_a_choice_stops_holding_when_something_else_is_released(
    engine: Engine, library: PromptLibrary
) -> None:
    process = Process(library)
    put(engine, library, v1_0=100)
    jobs = enqueue(engine, new_job(), new_job(prompt_version="1.0"))
    with transaction(engine) as connection:
        dispatch(connection)
    with transaction(engine) as connection:
        taken = [claim(connection, job) for job in jobs]
        chosen = [process.chooser.choose(connection, each) for each in taken if each]

    def hold() -> list[bool]:
        with transaction(engine) as connection:
            process.serving.keep_up(connection, releases.newest_id(connection))
        pairs = zip(taken, chosen, strict=True)
        return [process.chooser.still_holds(each, choice) for each, choice in pairs if each]

    assert hold() == [True, True]
    put(engine, library, v1_1=100)
    assert hold() == [False, True]
    put(engine, library, v1_0=100)
    assert hold() == [True, True]


def test_a_choice_made_before_the_claim_is_the_one_that_the_claim_would_make(
    engine: Engine, library: PromptLibrary
) -> None:
    process = Process(library)
    made = put(engine, library, v1_0=50, v1_1=50)
    for user in (None, "ann", "bob", "cid"):
        chosen = process.choose(engine, user_id=user)
        job_id = new_job().id
        foreseen = process.chooser.foresee(job_id, Hints("t", user, None, None))
        assert foreseen is not None
        assert foreseen[1] == made.id
        assert foreseen[0] == chosen or user is None


def test_a_choice_made_before_the_claim_does_not_outlive_a_release(
    engine: Engine, library: PromptLibrary
) -> None:
    process, hints = Process(library), Hints("t", None, None, None)
    (job_id,) = enqueue(engine, new_job())
    with transaction(engine) as connection:
        dispatch(connection)
    foreseen = process.chooser.foresee(job_id, hints)
    put(engine, library, v1_0=100)

    assert foreseen is not None
    assert foreseen[0].prompt.version == "1.2"
    with transaction(engine) as connection:
        assert claim_and_open(connection, job_id, TERMS, hints, foreseen[1], CALL) is None
        taken = claim(connection, job_id)
        assert taken is not None
        assert process.chooser.choose(connection, taken).prompt.version == "1.0"


def test_what_this_process_cannot_know_is_not_foreseen(
    engine: Engine, library: PromptLibrary, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    write(old, "1.0")
    process = Process(PromptLibrary.load(old))
    put(engine, library, v1_2=100)
    with transaction(engine) as connection:
        process.serving.keep_up(connection, releases.newest_id(connection))

    def foreseen(hints: Hints) -> Choice | None:
        found = process.chooser.foresee(new_job().id, hints)
        return None if found is None else found[0]

    assert foreseen(Hints("t", None, None, None)) is None
    assert foreseen(Hints("translate", None, None, None)) is None
    for pin in ("9.9", "1.0@0123456789ab", "@"):
        assert foreseen(Hints("t", None, pin, None)) is None
    chosen = process.choose(engine)
    assert foreseen(Hints("t", None, None, None)) == chosen
