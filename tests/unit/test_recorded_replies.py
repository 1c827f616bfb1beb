"""Recorded replies still pass: a task or a reader that has become stricter by accident fails here.

If it was no accident, record anew: `python -m sandbox.record NAME --again`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tasks
from worker.engine.choose import Choice
from worker.engine.prepare import Preparer
from worker.engine.prompts import PromptLibrary
from worker.engine.recordings import FOLDER, choices, load_recordings, path_of, replay
from worker.engine.registry import Registry
from worker.errors import ConfigurationError
from worker.settings import PROJECT

PROMPTS = PROJECT / "prompts"
REGISTRY = Registry(tasks.registry, PromptLibrary.load(PROMPTS))
PREPARER = Preparer(REGISTRY)
CHOICES = list(choices(REGISTRY))


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: f"{c.task.name}-{c.prompt.version}")
def test_today_s_code_accepts_what_was_recorded(
    choice: Choice, record_property: Callable[[str, object], None]
) -> None:
    try:
        recordings = load_recordings(PROMPTS, choice.prompt)
    except ConfigurationError as error:
        pytest.fail(str(error), pytrace=False)

    replayed = replay(PREPARER, choice, recordings)

    if wrong := [str(each) for each in replayed if each.failure]:
        name = choice.prompt.name
        hint = f"if that is as it should be: python -m sandbox.record {name} --again"
        pytest.fail("\n".join([*wrong, hint]), pytrace=False)
    for each in replayed:
        if each.accepted and each.accepted.warnings:
            record_property("noted", str(each))


def test_there_are_no_recordings_of_versions_that_do_not_exist() -> None:
    known = {path_of(PROMPTS, choice.prompt) for choice in CHOICES}
    assert set(PROMPTS.glob(f"*/{FOLDER}/*")) <= known
