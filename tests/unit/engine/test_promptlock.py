from __future__ import annotations

from pathlib import Path

import pytest

from worker.engine import promptlock
from worker.engine.prompts import PromptLibrary
from worker.errors import ConfigurationError
from worker.settings import PROJECT

VERSION = 'model = "m"\nmax_tokens = 10\nsystem = "s"\ntemplate = "{{ text }}"\nnotes = "n"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of prompts with two locked versions of `greet`."""
    (tmp_path / "greet").mkdir()
    for version in ("1.9", "1.10"):
        (tmp_path / "greet" / f"{version}.toml").write_text(VERSION)
    assert promptlock.lock(PromptLibrary.load(tmp_path), tmp_path) == ["greet/1.9", "greet/1.10"]
    return tmp_path


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "greet" / "1.10.toml"
    file.write_text(file.read_text().replace(old, new))


def check(folder: Path) -> None:
    promptlock.check(PromptLibrary.load(folder), folder)


def test_the_released_prompts_are_locked_and_unchanged() -> None:
    """What CI relies on: edit a released version and this fails."""
    check(PROJECT / "prompts")


def test_a_locked_folder_passes_and_stays_as_it_is(folder: Path) -> None:
    check(folder)
    assert promptlock.lock(PromptLibrary.load(folder), folder) == []


def test_notes_may_be_corrected(folder: Path) -> None:
    edit(folder, 'notes = "n"', 'notes = "better"')
    check(folder)


@pytest.mark.parametrize("act", [promptlock.check, promptlock.lock])
def test_an_edited_version_is_refused_and_the_message_says_what_to_add(
    folder: Path, act: object
) -> None:
    edit(folder, 'system = "s"', 'system = "t"')

    with pytest.raises(
        ConfigurationError, match=r"greet/1\.10 .*edited.*prompts/greet/1\.11\.toml"
    ):
        act(PromptLibrary.load(folder), folder)  # type: ignore[operator]


def test_a_removed_version_is_refused(folder: Path) -> None:
    (folder / "greet" / "1.9.toml").unlink()

    with pytest.raises(ConfigurationError, match=r"greet/1\.9 .*gone.*restore"):
        check(folder)


def test_the_version_to_add_is_one_that_is_free(folder: Path) -> None:
    file = folder / "greet" / "1.9.toml"
    file.write_text(VERSION.replace("max_tokens = 10", "max_tokens = 11"))

    with pytest.raises(ConfigurationError, match=r"greet/1\.9 .*prompts/greet/1\.11\.toml"):
        check(folder)


def test_a_version_that_is_not_locked_names_the_command(folder: Path) -> None:
    (folder / "greet" / "2.toml").write_text(VERSION)

    with pytest.raises(ConfigurationError, match=r"greet/2 .*claude-jobs prompts lock"):
        check(folder)
    assert promptlock.lock(PromptLibrary.load(folder), folder) == ["greet/2"]
    check(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"greet/1.9": 1}', "\xff"])
def test_a_broken_lock_file_is_one_line_that_names_it(folder: Path, content: str) -> None:
    (folder / "versions.lock").write_text(content, encoding="latin-1")

    with pytest.raises(ConfigurationError, match=r"versions\.lock") as caught:
        check(folder)
    assert "\n" not in str(caught.value)
