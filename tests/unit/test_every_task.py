"""What holds for every task in `tasks/`: a new one is tested by being there."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

import tasks
from sandbox.samples import load_samples
from worker.claude.pricing import cost_usd
from worker.claude.reply import Tokens
from worker.claude.schema import for_api
from worker.engine.prepare import Prepared, Preparer, Unrunnable
from worker.engine.prompts import PromptLibrary
from worker.engine.registry import Registry
from worker.settings import PROJECT
from worker.storage.claim import Claim

PROMPTS = PromptLibrary.load(PROJECT / "prompts")
REGISTRY = Registry(tasks.registry, PROMPTS)
VERSIONS = [(name, version) for name in REGISTRY for version in PROMPTS.versions(name)]
PREPARER = Preparer(REGISTRY)
NOBODY = UUID(int=0)


def claim(task: str, values: dict[str, Any], **options: Any) -> Claim:
    fields: dict[str, Any] = dict.fromkeys(Claim.__dataclass_fields__)
    return Claim(
        **fields | {"id": NOBODY, "token": NOBODY, "task": task, "input": values} | options
    )


def prepared(made: Claim) -> Prepared:
    return PREPARER.prepare(made, PREPARER.choose(made))


@pytest.mark.parametrize(("task", "version"), VERSIONS)
def test_every_sample_becomes_a_request(task: str, version: str) -> None:
    samples = load_samples(task)

    assert len(samples) >= 10
    for values in samples:
        request = prepared(claim(task, values, prompt_version=version)).request
        for value in values.values():
            for text in value if isinstance(value, list) else [str(value)]:
                assert text in request.user
        assert "{{" not in request.system


@pytest.mark.parametrize(("task", "version"), VERSIONS)
def test_the_system_prompt_states_the_output_s_format(task: str, version: str) -> None:
    request = prepared(claim(task, load_samples(task)[0], prompt_version=version)).request

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


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"task": "translate_text"}, "unknown_task"),
        ({"prompt_version": "99"}, "unknown_prompt_version"),
        ({"values": {"text": 1}}, "invalid_input"),
        ({"values": {}}, "invalid_input"),
    ],
)
def test_a_row_that_cannot_become_a_request_says_why(options: dict[str, Any], kind: str) -> None:
    values = options.pop("values", load_samples("summarize_text")[0])

    with pytest.raises(Unrunnable) as caught:
        prepared(claim(options.pop("task", "summarize_text"), values, **options))

    assert caught.value.failure.type == kind
