"""Two requests have one key only if they are one request."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, strategies
from pydantic import BaseModel

from tasks import analyze_document
from worker.claude.request import Correction, Request
from worker.engine.choose import Choice
from worker.engine.prepare import Preparer
from worker.engine.registry import load_registry
from worker.engine.requestkey import request_key

REQUEST = Request(model="m", max_tokens=100, system="s", user="u", schema={"type": "object"})
PARTS: dict[str, Any] = {
    "task": "t",
    "given": '{"a":1}',
    "prompt_sha256": "0" * 64,
    "schema_sha256": "1" * 64,
    "service": None,
    "user_id": None,
}
#: Another value for every field of a request that may change its answer.
OTHER = {
    "model": "n",
    "max_tokens": 101,
    "system": "s ",
    "user": "U",
    "effort": "high",
    "cache": "5m",
    "correction": Correction("x", "y"),
}


def key(request: Request = REQUEST, **parts: Any) -> str:
    return request_key(request, **(PARTS | parts))


def test_the_same_request_has_the_same_key() -> None:
    assert key() == key(replace(REQUEST))
    assert len(key()) == 64


def test_no_field_of_a_request_is_forgotten() -> None:
    assert set(OTHER) | {"schema", "user_id"} == {field.name for field in fields(Request)}


@pytest.mark.parametrize("field", OTHER)
def test_every_field_that_reaches_claude_changes_the_key(field: str) -> None:
    assert key(replace(REQUEST, **{field: OTHER[field]})) != key()


@pytest.mark.parametrize(
    "part",
    [
        {"task": "u"},
        {"given": '{"a":2}'},
        {"given": '{"a":1.0}'},
        {"given": '{"a":true}'},
        {"given": '{"a":"1"}'},
        {"given": '{"a":1,"b":null}'},
        {"prompt_sha256": "2" * 64},
        {"schema_sha256": "2" * 64},
        {"service": "shop"},
        {"service": ""},
        {"service": "null"},
        {"user_id": "u"},
        {"service": "u"},
    ],
    ids=str,
)
def test_everything_else_changes_it_too(part: dict[str, Any]) -> None:
    assert key(**part) != key()


def test_a_user_is_no_service() -> None:
    assert key(user_id="x", service=None) != key(user_id=None, service="x")


def test_metadata_changes_nothing() -> None:
    assert key(replace(REQUEST, user_id="somebody")) == key()


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_texts_that_look_the_same_are_kept_apart(form: Any) -> None:
    text = "\u00e9 \u212b \ufb01 e\u0301"
    other = unicodedata.normalize(form, text)
    assert (key(replace(REQUEST, user=other)) == key(replace(REQUEST, user=text))) == (
        other == text
    )
    assert key(given=json.dumps({"a": other})) != key(given=json.dumps({"a": text}))


class Given(BaseModel):
    a: str
    b: str


json_values = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values, json_values)
def test_two_inputs_never_share_a_key(one: Any, other: Any) -> None:
    same = json.dumps(one) == json.dumps(other)
    assert (key(given=json.dumps({"a": one})) == key(given=json.dumps({"a": other}))) == same


@given(strategies.text(), strategies.text())
def test_inputs_that_render_to_the_same_text_have_keys_of_their_own(a: str, b: str) -> None:
    # As a template that sets two fields side by side would have it.
    request = replace(REQUEST, user=a + b)
    first, second = Given(a=a, b=b), Given(a=a + b, b="")
    keys = {key(request, given=each.model_dump_json()) for each in (first, second)}
    assert len(keys) == len({first.model_dump_json(), second.model_dump_json()})


@given(strategies.lists(strategies.text(), min_size=6, max_size=6, unique=True))
def test_no_part_can_pass_for_another(texts: list[str]) -> None:
    """Whatever texts stand where: moving one changes the key, for nothing is joined to anything."""
    one = request_key(
        replace(REQUEST, system=texts[0], user=texts[1]),
        task=texts[2],
        given=json.dumps(texts[3]),
        prompt_sha256=texts[4],
        schema_sha256=texts[5],
        service=None,
    )
    moved = texts[1:] + texts[:1]
    other = request_key(
        replace(REQUEST, system=moved[0], user=moved[1]),
        task=moved[2],
        given=json.dumps(moved[3]),
        prompt_sha256=moved[4],
        schema_sha256=moved[5],
        service=None,
    )
    assert one != other


def test_a_prompt_version_of_a_shipped_task_changes_it() -> None:
    registry = load_registry()
    preparer = Preparer(registry)
    values = {
        "document_type": "fable",
        "focus_areas": ["animals"],
        "output_depth": "summary",
        "document": "A fox.",
    }
    keys = set()
    for version in registry.prompts.versions("analyze_document"):
        prompt = registry.prompts.get("analyze_document", version)
        choice = Choice(analyze_document, prompt, prompt.file.model)
        prepared = preparer.prepare_input(choice, values)
        keys.add(
            request_key(
                prepared.request,
                task="analyze_document",
                given=prepared.input.model_dump_json(),
                prompt_sha256=prompt.sha256,
                schema_sha256=preparer.schemas["analyze_document"].sha256,
                service=None,
            )
        )
    assert len(keys) == len(registry.prompts.versions("analyze_document")) > 1
