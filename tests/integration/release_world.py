"""A prompt with three versions, and what a worker process knows of its releases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from tests.integration.steps import claim, dispatch, enqueue, new_job
from worker.engine import releasing
from worker.engine.catalog import Catalog
from worker.engine.choose import Choice, Chooser
from worker.engine.prompts import PromptLibrary
from worker.engine.registry import Registry
from worker.engine.serving import Serving
from worker.engine.task import Task, TaskInput, TaskOutput
from worker.storage import releases
from worker.storage.engine import transaction

WHO = {"by": "ada"}


class Text(TaskInput):
    text: str


class Answer(TaskOutput):
    answer: str


TASK = Task(name="t", input=Text, output=Answer)


def write(folder: Path, version: str, model: str = "m", template: str = "{{ text }}") -> None:
    (folder / "t").mkdir(exist_ok=True)
    content = f"model = '{model}'\nmax_tokens = 9\nsystem = 's'\ntemplate = '{template}'\n"
    (folder / "t" / f"{version}.toml").write_text(content)


def library_in(folder: Path) -> PromptLibrary:
    """Versions 1.0, 1.1 and 1.2 of the prompt `t`."""
    for version in ("1.0", "1.1", "1.2"):
        write(folder, version, model=f"model-{version}", template=f"{{{{ text }}}} {version}")
    return PromptLibrary.load(folder)


class Process:
    """What a worker process knows."""

    def __init__(self, library: PromptLibrary) -> None:
        self.registry = Registry({"t": TASK}, library)
        self.serving, self.catalog = Serving(), Catalog(library)
        self.chooser = Chooser(self.registry, self.serving, self.catalog)

    def choose(self, engine: Engine, **options: Any) -> Choice:
        """The choice for a job that is enqueued, dispatched and claimed now."""
        (job_id,) = enqueue(engine, new_job(**options))
        with transaction(engine) as connection:
            dispatch(connection)
        with transaction(engine) as connection:
            taken = claim(connection, job_id)
            assert taken is not None
            return self.chooser.choose(connection, taken)


def put(engine: Engine, library: PromptLibrary, **shares: float) -> releases.Release:
    """Release versions, as `v1_0=90`."""
    points = {name[1:].replace("_", "."): round(percent * 100) for name, percent in shares.items()}
    with transaction(engine) as connection:
        return releasing.release(connection, library, "t", points, **WHO)


def back(engine: Engine, library: PromptLibrary, *version: str) -> releases.Release:
    with transaction(engine) as connection:
        made = releasing.rollback(connection, library, "t", *version, **WHO)
    assert made is not None
    return made
