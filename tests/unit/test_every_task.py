"""What holds for every task in `tasks/`: a new one is tested by being there."""

from __future__ import annotations

import json
from typing import Any

import pytest

import tasks
from sandbox.samples import load_samples, sampled
from worker.claude.pricing import cost_usd
from worker.claude.reply import Tokens
from worker.claude.schema import for_api
from worker.engine.choose import Choice, Unrunnable
from worker.engine.prepare import Prepared, Preparer
from worker.engine.prompts import PromptLibrary
from worker.engine.registry import Registry
from worker.evals.cases import load_cases
from worker.settings import PROJECT

PROMPTS = PromptLibrary.load(PROJECT / "prompts")
REGISTRY = Registry(tasks.registry, PROMPTS)
VERSIONS = [(name, version) for name in REGISTRY for version in PROMPTS.versions(name)]
PREPARER = Preparer(REGISTRY)


def prepared(task: str, values: dict[str, Any], version: str | None = None) -> Prepared:
    prompt = PROMPTS.get(REGISTRY[task].prompt, version)
    return PREPARER.prepare_input(Choice(REGISTRY[task], prompt, prompt.file.model), values)


def inputs(task: str) -> list[dict[str, Any]]:
    """The samples of a task, if it has any, and the inputs of its prompt's cases."""
    cases = load_cases(PROJECT / "prompts", REGISTRY[task]).dataset.cases
    samples = load_samples(task) if sampled([task]) else []
    return samples + [case.inputs.values for case in cases]


@pytest.mark.parametrize(("task", "version"), VERSIONS)
def test_every_sample_and_case_becomes_a_request(task: str, version: str) -> None:
    for values in inputs(task):
        request = prepared(task, values, version).request
        for value in values.values():
            for text in value if isinstance(value, list) else [str(value)]:
                assert text in request.user
        assert "{{" not in request.system


@pytest.mark.parametrize(("task", "version"), VERSIONS)
def test_the_system_prompt_states_the_output_s_format(task: str, version: str) -> None:
    request = prepared(task, inputs(task)[0], version).request

    assert json.dumps(request.schema, ensure_ascii=False, separators=(",", ":")) in request.system


@pytest.mark.parametrize("task", REGISTRY)
def test_the_output_can_be_sent_as_a_schema(task: str) -> None:
    """Closed objects all the way down, nothing of the model lost, within the API's limits."""
    schema = for_api(REGISTRY[task].output)

    objects = [node for node in walk(schema) if node.get("type") == "object"]
    assert objects
    for node in objects:
        assert node["additionalProperties"] is False
        assert node["properties"]
    assert sum("anyOf" in node for node in walk(schema)) <= 16
    optional = sum(len(node["properties"]) - len(node.get("required", [])) for node in objects)
    assert optional <= 24


def walk(node: Any) -> list[dict[str, Any]]:
    found = [node] if isinstance(node, dict) else []
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return found + [each for child in children for each in walk(child)]


@pytest.mark.parametrize("task", REGISTRY)
def test_every_task_has_a_check(task: str) -> None:
    assert REGISTRY[task].checks


@pytest.mark.parametrize(
    "prompt", list(PROMPTS), ids=lambda prompt: f"{prompt.name}/{prompt.version}"
)
def test_every_version_names_a_model_with_a_price_and_fits_a_plain_request(prompt: Any) -> None:
    assert cost_usd(prompt.file.model, Tokens(input=1, output=1)) is not None
    assert prompt.file.max_tokens <= 21_333  # above, the SDK refuses a request without a stream


@pytest.mark.parametrize("values", [{"text": 1}, {}])
def test_an_input_that_does_not_fit_says_why(values: dict[str, Any]) -> None:
    with pytest.raises(Unrunnable) as caught:
        prepared("summarize_text", values)

    assert caught.value.failure.type == "invalid_input"
