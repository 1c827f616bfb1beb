"""Output that keeps to its schema."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from anthropic import Anthropic, transform_schema
from anthropic.types import Message
from pydantic import ValidationError

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from tests.integration.claude.asking import (
    ANALYSIS,
    TEXT,
    Analysis,
    ask,
    text_of,
)


@pytest.mark.parametrize("number", range(20))
def test_output_validates_against_its_model(sdk: Anthropic, number: int) -> None:
    message = ask(sdk, f"{TEXT} ({number})", output_config=ANALYSIS)
    analysis = Analysis.model_validate_json(text_of(message))

    assert 2 <= len(analysis.risks) <= 4
    for risk in analysis.risks:
        assert all(quote in TEXT for quote in risk.quotes)


def test_every_construct_of_a_schema_is_filled(sdk: Anthropic) -> None:
    formats = ["date-time", "date", "time", "email", "uri", "ipv4", "ipv6", "uuid"]
    constructs = {
        "const": {"const": 3},
        "either": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        "union": {"type": ["string", "null"]},
        "nothing": {"type": "null"},
        "merged": {"allOf": [{"$ref": "#/$defs/Pair"}]},
        **{name: {"type": "string", "format": name} for name in formats},
    }
    schema = {
        "type": "object",
        "properties": constructs,
        "required": list(constructs),
        "additionalProperties": False,
        "$defs": {
            "Pair": {
                "type": "object",
                "properties": {"left": {"type": "number"}, "right": {"type": "string"}},
                "required": ["left", "right"],
                "additionalProperties": False,
            }
        },
    }
    output = {"format": {"type": "json_schema", "schema": schema}}
    value = json.loads(text_of(ask(sdk, output_config=output)))

    assert list(value) == list(constructs)
    assert value["const"] == 3
    assert type(value["either"]) in (int, bool)
    assert value["nothing"] is None
    assert set(value["merged"]) == {"left", "right"}
    assert value["email"].endswith("@example.com")


@pytest.mark.parametrize(
    "pattern",
    [r"^[A-Z]{3}$", r"^\d{4}-\d\d$", r"^(a|bc)+x?$", r"^[^@\s]+@[a-z]+\.org$", r"\+?[1-9]\d*"],
)
def test_simple_patterns_are_matched(sdk: Anthropic, pattern: str) -> None:
    schema = transform_schema({"type": "string", "pattern": pattern, "maxLength": 40})
    output = {"format": {"type": "json_schema", "schema": schema}}

    assert re.search(pattern, json.loads(text_of(ask(sdk, output_config=output))))


def without_ids(message: Message) -> dict[str, Any]:
    return message.model_dump(exclude={"id", "parsed_output"})


def test_equal_requests_get_equal_replies(sdk: Anthropic, claude: SimulatedClaude) -> None:
    first = ask(sdk, output_config=ANALYSIS, metadata={"user_id": "a"})
    second = ask(sdk, output_config=ANALYSIS, metadata={"user_id": "b"})
    other = ask(sdk, "Something else", output_config=ANALYSIS)
    with (
        SimulatedClaude(seed=8) as elsewhere,
        Anthropic(api_key="any", base_url=elsewhere.url, max_retries=0) as elsewhere_sdk,
    ):
        reseeded = ask(elsewhere_sdk, output_config=ANALYSIS)

    assert without_ids(first) == without_ids(second)
    assert text_of(first) not in (text_of(other), text_of(reseeded))


@pytest.mark.parametrize(
    "content",
    ["fenced", "prose", "truncated", "missing_field", "wrong_type", "capitalised_enum"],
)
def test_damaged_content_fails_validation(
    sdk: Anthropic, claude: SimulatedClaude, content: Any
) -> None:
    claude.faults(Fault(content=content))
    message = ask(sdk, output_config=ANALYSIS)

    assert message.stop_reason == "end_turn"
    with pytest.raises(ValidationError):
        Analysis.model_validate_json(text_of(message))


def test_unusual_content_is_still_whole(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults(Fault(content="thinking_first"), Fault(content="split"))
    thinking = ask(sdk, output_config=ANALYSIS)
    split = ask(sdk, output_config=ANALYSIS)

    assert [block.type for block in thinking.content] == ["thinking", "text"]
    assert [block.type for block in split.content] == ["text"] * 3
    assert text_of(thinking) == text_of(split)
    Analysis.model_validate_json(text_of(split))


def test_an_empty_reply_has_no_content(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults(Fault(content="empty"))
    message = ask(sdk)

    assert message.content == []
    assert message.usage.output_tokens > 0
