from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks import classify_ticket, summarize_text
from worker.engine.prompts import PromptLibrary
from worker.engine.registry import Registry, discover
from worker.errors import ConfigurationError, UnknownTask
from worker.settings import PROJECT

GOOD = """
from worker.engine.task import Task, TaskInput, TaskOutput
class Text(TaskInput):
    text: str
class Greeting(TaskOutput):
    greeting: str
greet = Task(name="greet", input=Text, output=Greeting)
"""


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> str:
    """A package of task files, importable under a name of its own."""
    name = f"tasks_{folder.name.replace('-', '_')}"
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    for module, source in modules.items():
        (folder / name / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    __import__(name)
    return name


def test_a_new_file_is_found_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = package(tmp_path, monkeypatch, greet=GOOD)

    assert list(discover(sys.modules[name])) == ["greet"]


@pytest.mark.parametrize("source", ["", "wave = 1", GOOD, GOOD.replace("greet =", "wave =")])
def test_a_file_without_its_task_says_what_it_must_define(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    name = package(tmp_path, monkeypatch, wave=source)

    with pytest.raises(ConfigurationError, match=r"tasks/wave\.py must define wave = Task\(name="):
        discover(sys.modules[name])


def test_an_unknown_task_is_named_with_those_there_are() -> None:
    registry = Registry({"summarize_text": summarize_text}, PromptLibrary.load(PROJECT / "prompts"))

    with pytest.raises(UnknownTask, match="unknown task 'sumarize'; there are summarize_text"):
        registry["sumarize"]


def test_every_version_must_fit_its_task_not_only_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "classify_ticket"
    folder.mkdir()
    good = (PROJECT / "prompts" / "classify_ticket" / "1.0.toml").read_text(encoding="utf-8")
    (folder / "1.0.toml").write_text(good.replace("{{ subject }}", "{{ topic }}"))
    (folder / "1.1.toml").write_text(good)

    with pytest.raises(ConfigurationError, match=r"classify_ticket/1\.0.*topic.*subject"):
        Registry({"classify_ticket": classify_ticket}, PromptLibrary.load(tmp_path))
