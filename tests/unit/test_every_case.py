"""The recorded replies of every prompt version meet what `cases.yaml` expects of them.

What has become stricter by accident – a task, the reader, a case – fails here. If it was none,
ask anew: `claude-jobs prompts test NAME --live`.
"""

from __future__ import annotations

import json
from functools import cache

import pytest

import tasks
from worker.engine.prompts import PromptLibrary
from worker.engine.recordings import FOLDER, choices, load_recordings, path_of
from worker.engine.registry import Registry
from worker.evals.cases import load_cases
from worker.evals.recorded import run_recorded
from worker.evals.report import CaseReport
from worker.evals.schema import cases_schema
from worker.settings import PROJECT

PROMPTS = PROJECT / "prompts"
REGISTRY = Registry(tasks.registry, PromptLibrary.load(PROMPTS))
CHOICES = {(choice.task.name, choice.prompt.version): choice for choice in choices(REGISTRY)}
CASES = {name: load_cases(PROMPTS, task) for name, task in REGISTRY.items()}


@cache
def judged(task: str, version: str) -> dict[str, CaseReport]:
    prompt = CHOICES[task, version].prompt
    report = run_recorded(REGISTRY, REGISTRY[task], prompt, CASES[task], PROMPTS)
    return {case.name: case for case in report.cases}


@pytest.mark.parametrize(
    ("task", "version", "case"),
    [
        (task, version, case.name)
        for task, version in CHOICES
        for case in CASES[task].of_version(version).cases
    ],
)
def test_the_recorded_reply_meets_the_case(task: str, version: str, case: str) -> None:
    found = judged(task, version)[case]

    wrong = [f"{each.name}: {each.why}" for each in found.expectations if each.verdict == "failed"]
    if not found.passed:
        pytest.fail("\n".join([found.error, *wrong] if found.error else wrong), pytrace=False)
    assert found.count("passed") >= len(REGISTRY[task].checks)


@pytest.mark.parametrize("task", CASES)
def test_every_prompt_has_cases_that_say_something(task: str) -> None:
    cases = CASES[task].dataset.cases

    assert len(cases) >= 8
    for case in cases:
        assert case.evaluators or CASES[task].dataset.evaluators, case.name


def test_there_are_no_recordings_of_versions_or_cases_that_do_not_exist() -> None:
    known = {path_of(PROMPTS, choice.prompt) for choice in CHOICES.values()}
    assert set(PROMPTS.glob(f"*/{FOLDER}/*")) <= known
    for (task, version), choice in CHOICES.items():
        names = {case.name for case in CASES[task].of_version(version).cases}
        assert set(load_recordings(PROMPTS, choice.prompt)) == names


def test_editors_have_the_schema_of_today() -> None:
    """Otherwise: python -m worker.evals.schema > prompts/cases.schema.json"""
    written = json.loads((PROMPTS / "cases.schema.json").read_text(encoding="utf-8"))

    assert written == cases_schema()
