"""Requests that Claude refuses."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import anthropic
import httpx2
import pytest
from anthropic import Anthropic
from anthropic.types import AnthropicBetaParam, ContentBlockParam, Message, OutputConfigParam

from sandbox.claude.betas import BETAS
from sandbox.claude.client import SimulatedClaude
from sandbox.claude.conversation import BLOCK_TYPES
from sandbox.claude.parameters import EFFORTS
from tests.integration.claude.asking import ANALYSIS, HEADERS, MODEL, ask, request

OLD = "claude-sonnet-4-5"
USER = {"role": "user", "content": "A"}
TOOL = {"name": "look", "input_schema": {"type": "object"}}
BUDGET = {"type": "enabled", "budget_tokens": 3000}
CITED = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": "A"},
    "citations": {"enabled": True},
}


def said(*blocks: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": list(blocks)}]


@pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": "many"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 10**6}, "max_tokens: 1000000 > 128000"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"extra_body": {"foo": 1}}, "foo: Extra inputs are not permitted"),
        ({"extra_body": {"temperature": 1}}, "temperature: Extra inputs are not permitted"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty content"),
        ({"messages": [USER, {"role": "assistant", "content": "A"}]}, "prefill"),
        ({"messages": [{"role": "assistant", "content": "A"}, USER]}, 'must use the "user" role'),
        ({"messages": [{"role": "robot", "content": "A"}]}, "messages.0.role: Input should be"),
        ({"messages": [USER | {"name": "Ann"}]}, "messages.0.name: Extra inputs"),
        ({"messages": said({"type": "smell"})}, "Input tag 'smell' found using 'type'"),
        ({"messages": said({"type": "text", "text": ""})}, "text content blocks must be non-empty"),
        ({"messages": said({"type": "text"})}, "messages.0.content.0.text.text: Field required"),
        ({"system": 3}, "system: Input should be a valid string"),
        ({"system": [{"type": "text"}]}, "system.0.text: Field required"),
        ({"system": [{"type": "image"}]}, "system.0.type: Input should be 'text'"),
        ({"metadata": {"user_id": "x" * 257}}, "metadata.user_id: String should have at most 256"),
        ({"metadata": {"name": "Ann"}}, "metadata.name: Extra inputs are not permitted"),
        ({"stop_sequences": [" "]}, "stop_sequences: each stop sequence must"),
        ({"service_tier": "gold"}, "service_tier: Input should be"),
        ({"output_config": {"effort": "heroic"}}, "output_config.effort: Input should be one of"),
        ({"output_config": {"size": 1}}, "output_config.size: Extra inputs are not permitted"),
        ({"output_config": {"format": {"type": "text"}}}, "format.type: Input should be"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "format.schema: Field required"),
        ({"thinking": {"type": "hard"}}, "thinking.type: Input should be one of"),
        ({"thinking": {"type": "disabled"}}, '"thinking.type.disabled" is not supported'),
        ({"thinking": BUDGET}, '"thinking.type.enabled" is not supported'),
        ({"thinking": BUDGET, "model": OLD}, "must be greater than `thinking.budget_tokens`"),
        ({"tools": [{"name": "look"}]}, "tools.0.custom.input_schema: Field required"),
        ({"tools": [TOOL | {"name": "look up"}]}, "tools.0.custom.name: String should match"),
        ({"tools": [TOOL, TOOL]}, "Tool names must be unique"),
        ({"tool_choice": {"type": "auto"}}, "only be specified while providing tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "is not supported for this model"),
        ({"extra_body": {"speed": "fast"}}, "requires the `fast-mode-2026-02-01` beta header"),
        ({"output_config": ANALYSIS, "messages": said(CITED)}, "Citations are not supported"),
    ],
)
def test_bad_parameters_are_400(sdk: Anthropic, options: dict[str, Any], message: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message) as error:
        ask(sdk, **options)

    assert error.value.type == "invalid_request_error"
    assert error.value.request_id


@pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"messages": [USER, USER, {"role": "assistant", "content": "A"}, USER]},
        {"messages": said({"type": "text", "text": "A"}, CITED)},
        {"system": [{"type": "text", "text": "Be brief."}]},
        {"metadata": {"user_id": "x" * 256}, "service_tier": "standard_only"},
        {"output_config": {**ANALYSIS, "effort": "xhigh"}},
        {"tools": [TOOL], "tool_choice": {"type": "auto"}},
        {"tools": [TOOL], "tool_choice": {"type": "any"}, "model": "claude-haiku-5-5"},
        {"thinking": {"type": "disabled"}, "model": "claude-haiku-5-5"},
        {"thinking": BUDGET, "max_tokens": 4000, "model": OLD},
        {"max_tokens": 0, "cache_control": {"type": "ephemeral"}},
    ],
)
def test_good_parameters_are_accepted(sdk: Anthropic, options: dict[str, Any]) -> None:
    assert ask(sdk, **options).stop_reason in ("end_turn", "max_tokens")


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([{"type": "eternal"}], "cache_control.type: Input should be 'ephemeral'"),
        ([{"type": "ephemeral", "ttl": "1d"}], "cache_control.ttl: Input should be '5m' or '1h'"),
        ([{"type": "ephemeral", "for": "me"}], "cache_control.for: Extra inputs"),
        ([{"type": "ephemeral"}] * 5, "A maximum of 4 blocks with cache_control"),
        (
            [{"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}],
            "messages.0.content.1.cache_control.ttl: a ttl='1h' cache_control block must not come",
        ),
    ],
)
def test_bad_cache_breakpoints_are_400(
    sdk: Anthropic, marks: list[dict[str, str]], message: str
) -> None:
    blocks = [{"type": "text", "text": "A", "cache_control": mark} for mark in marks]

    with pytest.raises(anthropic.BadRequestError, match=message):
        ask(sdk, messages=said(*blocks))


def test_the_mark_of_a_whole_request_counts_and_comes_last(sdk: Anthropic) -> None:
    mark = {"type": "ephemeral"}
    block = {"type": "text", "text": "A", "cache_control": mark}

    assert ask(sdk, messages=said(*[block] * 3), cache_control=mark)
    with pytest.raises(anthropic.BadRequestError, match="A maximum of 4 blocks"):
        ask(sdk, messages=said(*[block] * 4), cache_control=mark)
    with pytest.raises(anthropic.BadRequestError, match="must not come after a ttl='5m'"):
        ask(sdk, messages=said(block), cache_control={**mark, "ttl": "1h"})


def test_betas_are_checked(sdk: Anthropic) -> None:
    context: Any = {"edits": [{"type": "clear_tool_uses_20250919"}]}

    def beta(*betas: str, **options: Any) -> Any:
        return sdk.beta.messages.create(**request(**options), betas=list(betas))

    with pytest.raises(anthropic.BadRequestError, match=r"Unexpected value\(s\) `nonsense-1`"):
        beta("nonsense-1", "files-api-2025-04-14")
    with pytest.raises(anthropic.BadRequestError, match="context_management: Extra inputs"):
        beta("files-api-2025-04-14", context_management=context)
    assert beta("context-management-2025-06-27", context_management=context)
    assert beta("fast-mode-2026-02-01", speed="fast")


def test_every_beta_of_the_sdk_is_known() -> None:
    known = (get_args(part) for part in get_args(AnthropicBetaParam))
    assert {beta for betas in known for beta in betas} == BETAS


def test_every_block_and_effort_of_the_sdk_is_known() -> None:
    blocks = [get_type_hints(block)["type"] for block in get_args(ContentBlockParam)]
    assert {name for block in blocks for name in get_args(block)} == BLOCK_TYPES
    assert str(EFFORTS)[1:-1] in str(get_type_hints(OutputConfigParam)["effort"])


def test_counting_is_as_strict_as_creating(sdk: Anthropic) -> None:
    bad: list[Any] = [{"model": "gpt-4"}, {"messages": []}, {"extra_body": {"max_tokens": 5}}]
    for options in bad:
        with pytest.raises(anthropic.APIStatusError) as error:
            sdk.messages.count_tokens(**{"model": MODEL, "messages": [USER]} | options)
        assert error.value.status_code in (400, 404)


@pytest.mark.parametrize("missing", ["max_tokens", "messages", "model"])
def test_missing_parameters_are_400(sdk: Anthropic, missing: str) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "A"}]}
    del body[missing]

    with pytest.raises(anthropic.BadRequestError, match=f"{missing}: Field required"):
        sdk.post("/v1/messages", body=body, cast_to=Message)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "integer", "minimum": 1}, "'integer' type, properties minimum are not"),
        ({"type": "string", "pattern": "a+"}, "properties pattern are not supported"),
        ({"type": "object", "properties": {}}, "'additionalProperties' must be explicitly"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, "'minItems'"),
        ({"type": "string", "format": "colour"}, "format 'colour' is not supported"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "Recursive"),
        ({"$ref": "https://example.com/schema"}, "only local definitions"),
        ({"enum": [["nested"]]}, "Complex types in enums"),
    ],
)
def test_schemas_that_claude_does_not_accept_are_400(
    sdk: Anthropic, schema: dict[str, Any], message: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message):
        ask(sdk, output_config={"format": {"type": "json_schema", "schema": schema}})


@pytest.mark.parametrize("model", ["claude-sonnet-4-20250514", "gpt-4"])
@pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
def test_unknown_and_retired_models_are_404(sdk: Anthropic, model: str) -> None:
    with pytest.raises(anthropic.NotFoundError, match=f"model: {model}") as error:
        ask(sdk, model=model)

    assert error.value.type == "not_found_error"


def test_keys_are_checked(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.configure(api_key="right")
    with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key") as error:
        ask(sdk)
    no_key = httpx2.post(f"{claude.url}/v1/messages", json={})

    assert error.value.type == "authentication_error"
    assert no_key.status_code == 401
    assert ask(sdk.with_options(api_key="right")).stop_reason == "end_turn"


def test_what_is_not_json_is_400_and_what_is_too_large_413(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    headers = HEADERS
    other = httpx2.post(f"{claude.url}/v1/messages", headers=headers | {"anthropic-version": "1"})
    assert other.status_code == 400
    broken = httpx2.post(f"{claude.url}/v1/messages", headers=headers, content=b"{no")

    assert broken.status_code == 400
    assert broken.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.ContentTooLargeError) as error:
        ask(sdk, "x" * (33 * 1024**2))
    assert error.value.body["error"]["type"] == "request_too_large"  # type: ignore[index]


def test_other_paths_are_404(sdk: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        sdk.models.list()
