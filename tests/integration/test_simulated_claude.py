"""The simulated Claude, seen through the real SDK."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

import anthropic
import httpx2
import psutil
import pytest
from anthropic import Anthropic, transform_schema
from anthropic.types import Message, Usage
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault

MODEL = "claude-sonnet-5-5"
TEXT = (
    "<document>The harbour of Lorient was dredged in March. Fishing boats used the northern quay "
    "while the work went on. The council expects larger ferries by next summer, and more visitors "
    "with them. Some residents fear the noise.</document> Analyse the document."
)


class Severity(StrEnum):
    LOW = "low"
    HIGH = "high"


class Risk(BaseModel):
    label: str = Field(max_length=30)
    severity: Severity
    confidence: float = Field(ge=0, le=1)
    quotes: list[str] = Field(min_length=1, max_length=2)


class Analysis(BaseModel):
    title: str
    summary: str = Field(min_length=20)
    kind: Literal["report", "letter"]
    risks: list[Risk]
    reviewer: str | None
    pages: int | None = Field(default=None, ge=1, le=9)


ANALYSIS: Any = {"format": {"type": "json_schema", "schema": transform_schema(Analysis)}}


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatedClaude]:
    with SimulatedClaude(seed=7) as claude:
        yield claude


@pytest.fixture
def claude(server: SimulatedClaude) -> SimulatedClaude:
    server.reset()
    server.configure(
        latency=0, tokens_per_second=None, chunk_tokens=8, thinking_tokens=0, api_key=None
    )
    return server


@pytest.fixture
def sdk(claude: SimulatedClaude) -> Iterator[Anthropic]:
    with Anthropic(api_key="any", base_url=claude.url, max_retries=0, timeout=5) as client:
        yield client


def ask(sdk: Anthropic, text: str = TEXT, **options: Any) -> Message:
    message = sdk.messages.create(
        **{"model": MODEL, "max_tokens": 2000, "messages": [{"role": "user", "content": text}]}
        | options
    )
    assert isinstance(message, Message)
    return message


def stream(sdk: Anthropic, text: str = TEXT, **options: Any) -> list[Any]:
    events = sdk.messages.create(
        **{"model": MODEL, "max_tokens": 2000, "messages": [{"role": "user", "content": text}]}
        | options,
        stream=True,
    )
    return list(events)


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def without_ids(message: Message) -> dict[str, Any]:
    return message.model_dump(exclude={"id", "parsed_output"})


class TestReplies:
    def test_a_reply_has_the_shape_of_the_sdks_types(self, sdk: Anthropic) -> None:
        raw = sdk.messages.with_raw_response.create(
            model=MODEL, max_tokens=500, messages=[{"role": "user", "content": TEXT}]
        )
        body = json.loads(raw.text())
        message = Message.model_validate(body, strict=True)

        assert set(body) <= set(Message.model_fields)
        assert set(body["usage"]) <= set(Usage.model_fields)
        assert message.stop_reason == "end_turn"
        assert message.usage.output_tokens > 0
        assert message.usage.output_tokens_details is not None
        assert raw.headers["request-id"].startswith("req_")
        assert raw.headers["anthropic-organization-id"]
        for name in ("requests", "input-tokens", "output-tokens", "tokens"):
            for part in ("limit", "remaining", "reset"):
                assert raw.headers[f"anthropic-ratelimit-{name}-{part}"]

    def test_a_stream_has_the_events_in_order(self, sdk: Anthropic) -> None:
        events = stream(sdk)
        types = [event.type for event in events]

        assert types[:2] == ["message_start", "content_block_start"]
        assert set(types[2:-3]) == {"content_block_delta"}
        assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert events[0].message.usage.input_tokens > 0
        assert events[0].message.usage.cache_creation is not None
        assert events[-2].usage.output_tokens > 0
        for event in events:
            TypeAdapter(type(event)).validate_python(event.model_dump(), strict=True)

    def test_pings_are_sent_where_claude_sends_them(self, claude: SimulatedClaude) -> None:
        reply = httpx2.post(
            f"{claude.url}/v1/messages",
            headers={"x-api-key": "any", "anthropic-version": "2023-06-01"},
            json={
                "model": MODEL,
                "max_tokens": 50,
                "stream": True,
                "messages": [{"role": "user", "content": TEXT}],
            },
        )

        assert reply.headers["content-type"].startswith("text/event-stream")
        names = [line for line in reply.text.splitlines() if line.startswith("event: ")]
        assert names[2] == "event: ping"

    @pytest.mark.parametrize("options", [{}, {"output_config": ANALYSIS}])
    def test_a_stream_adds_up_to_the_plain_reply(
        self, sdk: Anthropic, options: dict[str, Any]
    ) -> None:
        plain = ask(sdk, **options)
        with sdk.messages.stream(
            model=MODEL, max_tokens=2000, messages=[{"role": "user", "content": TEXT}], **options
        ) as events:
            streamed = events.get_final_message()

        assert text_of(streamed) == text_of(plain)
        assert streamed.usage == plain.usage
        assert streamed.id != plain.id

    def test_thinking_is_billed_and_counts_toward_max_tokens(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        claude.configure(thinking_tokens=40)
        message = ask(sdk)
        short = ask(sdk, max_tokens=30)
        off = ask(sdk, thinking={"type": "disabled"})

        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.usage.output_tokens_details
        assert message.usage.output_tokens_details.thinking_tokens == 40
        assert message.usage.output_tokens > 40
        assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 30)
        assert [block.type for block in off.content] == ["text"]
        assert [event.type for event in stream(sdk)].count("content_block_start") == 2

    def test_max_tokens_cuts_the_reply_off(self, sdk: Anthropic) -> None:
        message = ask(sdk, output_config=ANALYSIS, max_tokens=10)

        assert message.stop_reason == "max_tokens"
        assert message.usage.output_tokens == 10
        with pytest.raises(ValidationError):
            Analysis.model_validate_json(text_of(message))

    def test_stop_sequences_end_the_reply(self, sdk: Anthropic) -> None:
        message = ask(sdk, stop_sequences=["e"])

        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "e")
        assert "e" not in text_of(message)

    def test_tokens_are_counted_as_they_are_billed(self, sdk: Anthropic) -> None:
        messages: Any = [{"role": "user", "content": TEXT}]
        count = sdk.messages.count_tokens(
            model=MODEL, messages=messages, system="Be brief.", output_config=ANALYSIS
        )

        usage = ask(sdk, system="Be brief.", output_config=ANALYSIS).usage
        assert count.input_tokens == usage.input_tokens

    def test_latency_and_speed_hold_a_reply_back(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        claude.configure(latency=0.1, tokens_per_second=200)
        message = ask(sdk)
        stream(sdk)

        due = 0.1 + message.usage.output_tokens / 200
        for entry in claude.ledger():
            assert entry.finished_at is not None
            assert 0.8 * due < entry.finished_at - entry.received_at < due + 2


class TestStructuredOutput:
    @pytest.mark.parametrize("number", range(20))
    def test_output_validates_against_its_model(self, sdk: Anthropic, number: int) -> None:
        message = ask(sdk, f"{TEXT} ({number})", output_config=ANALYSIS)
        analysis = Analysis.model_validate_json(text_of(message))

        assert 2 <= len(analysis.risks) <= 4
        for risk in analysis.risks:
            assert all(quote in TEXT for quote in risk.quotes)

    def test_every_construct_of_a_schema_is_filled(self, sdk: Anthropic) -> None:
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
    def test_simple_patterns_are_matched(self, sdk: Anthropic, pattern: str) -> None:
        schema = transform_schema({"type": "string", "pattern": pattern, "maxLength": 40})
        output = {"format": {"type": "json_schema", "schema": schema}}

        assert re.search(pattern, json.loads(text_of(ask(sdk, output_config=output))))

    def test_equal_requests_get_equal_replies(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
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


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_tokens": "many"}, "max_tokens: Input should be a valid integer"),
            ({"max_tokens": 10**6}, "max_tokens: 1000000 > 128000"),
            ({"messages": []}, "messages: at least one message is required"),
            ({"extra_body": {"foo": 1}}, "foo: Extra inputs are not permitted"),
            ({"extra_body": {"temperature": 1}}, "temperature: Extra inputs are not permitted"),
            ({"messages": [{"role": "user", "content": ""}]}, "non-empty content"),
            ({"messages": [{"role": "assistant", "content": "A"}]}, "prefill"),
            ({"system": 3}, "system: Input should be a valid string"),
            ({"system": [{"type": "text"}]}, "The request is malformed"),
        ],
    )
    def test_bad_parameters_are_400(
        self, sdk: Anthropic, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(anthropic.BadRequestError, match=message) as error:
            ask(sdk, **options)

        assert error.value.type == "invalid_request_error"
        assert error.value.request_id

    @pytest.mark.parametrize("missing", ["max_tokens", "messages", "model"])
    def test_missing_parameters_are_400(self, sdk: Anthropic, missing: str) -> None:
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
        self, sdk: Anthropic, schema: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(anthropic.BadRequestError, match=message):
            ask(sdk, output_config={"format": {"type": "json_schema", "schema": schema}})

    @pytest.mark.parametrize("model", ["claude-sonnet-4-20250514", "gpt-4"])
    @pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
    def test_unknown_and_retired_models_are_404(self, sdk: Anthropic, model: str) -> None:
        with pytest.raises(anthropic.NotFoundError, match=f"model: {model}") as error:
            ask(sdk, model=model)

        assert error.value.type == "not_found_error"

    def test_keys_are_checked(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        claude.configure(api_key="right")
        with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key") as error:
            ask(sdk)
        no_key = httpx2.post(f"{claude.url}/v1/messages", json={})

        assert error.value.type == "authentication_error"
        assert no_key.status_code == 401
        assert ask(sdk.with_options(api_key="right")).stop_reason == "end_turn"

    def test_what_is_not_json_is_400_and_what_is_too_large_413(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
        broken = httpx2.post(f"{claude.url}/v1/messages", headers=headers, content=b"{no")

        assert broken.status_code == 400
        assert broken.json()["error"]["type"] == "invalid_request_error"
        with pytest.raises(anthropic.ContentTooLargeError) as error:
            ask(sdk, "x" * (33 * 1024**2))
        assert error.value.body["error"]["type"] == "request_too_large"  # type: ignore[index]

    def test_other_paths_are_404(self, sdk: Anthropic) -> None:
        with pytest.raises(anthropic.NotFoundError):
            sdk.models.list()


class TestFaults:
    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, anthropic.BadRequestError),
            (402, anthropic.PaymentRequiredError),
            (403, anthropic.PermissionDeniedError),
            (408, anthropic.RequestTimeoutError),
            (429, anthropic.RateLimitError),
            (500, anthropic.InternalServerError),
            (503, anthropic.ServiceUnavailableError),
            (504, anthropic.GatewayTimeoutError),
            (529, anthropic.OverloadedError),
        ],
    )
    def test_a_status_is_the_sdks_exception(
        self,
        sdk: Anthropic,
        claude: SimulatedClaude,
        status: int,
        error: type[anthropic.APIStatusError],
    ) -> None:
        claude.faults(Fault(status=status, headers={"Retry-After": "7"}))
        with pytest.raises(error) as raised:
            ask(sdk)

        assert raised.value.status_code == status
        assert raised.value.response.headers["retry-after"] == "7"
        assert claude.ledger()[0].cost_usd == 0
        assert ask(sdk).stop_reason == "end_turn"

    def test_an_error_code_selects_the_sdks_subclass(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        claude.faults({"status": 429, "error_code": "enforced_spend_limit_reached"})

        with pytest.raises(anthropic.RateLimitError) as raised:
            ask(sdk)
        assert raised.value.error_code == "enforced_spend_limit_reached"
        assert type(raised.value) is not anthropic.RateLimitError

    def test_a_504_may_be_billed(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        claude.faults(Fault(status=504, billed=True))

        with pytest.raises(anthropic.GatewayTimeoutError):
            ask(sdk)
        (entry,) = claude.ledger()
        assert (entry.status, entry.delivered) == (504, True)
        assert entry.cost_usd > 0

    def test_match_times_and_rate_choose_the_requests(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        claude.faults(
            Fault(match="harbour", status=500, times=2),
            Fault(match="meadow", reply="sometimes", times=None, rate=0.5),
        )
        assert ask(sdk, "A meadowless text").stop_reason == "end_turn"
        for _ in range(2):
            with pytest.raises(anthropic.InternalServerError):
                ask(sdk)
        assert ask(sdk).stop_reason == "end_turn"

        replies = [text_of(ask(sdk, "The meadow")) for _ in range(40)]
        assert 5 < replies.count("sometimes") < 35
        assert len(claude.remaining_faults()) == 1
        claude.clear_faults()
        assert claude.remaining_faults() == []

    @pytest.mark.parametrize("at", ["start", "headers", {"bytes": 40}])
    def test_a_cut_connection_is_a_connection_error(
        self, sdk: Anthropic, claude: SimulatedClaude, at: Any
    ) -> None:
        claude.faults({"cut": True, "at": at})

        with pytest.raises((anthropic.APIConnectionError, httpx2.RemoteProtocolError)):
            ask(sdk)
        (entry,) = claude.ledger()
        assert (entry.outcome, entry.delivered) == ("cut", False)
        assert entry.cost_usd > 0

    @pytest.mark.parametrize("at", ["headers", {"bytes": 300}, {"events": 3}, {"events": -1}])
    def test_a_stream_that_is_cut_raises_httpx2s_error(
        self, sdk: Anthropic, claude: SimulatedClaude, at: Any
    ) -> None:
        claude.faults({"cut": True, "at": at})

        with pytest.raises(httpx2.RemoteProtocolError):
            stream(sdk)

    def test_a_stall_runs_into_the_clients_timeout(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        impatient = sdk.with_options(timeout=0.2)
        claude.faults(Fault(stall=30), {"stall": 30, "at": {"events": 3}})

        with pytest.raises(anthropic.APITimeoutError):
            ask(impatient)
        with pytest.raises(httpx2.ReadTimeout):
            stream(impatient)
        assert ask(sdk).stop_reason == "end_turn"
        for entry in claude.ledger()[:2]:
            assert (entry.outcome, entry.delivered) == ("disconnected", False)
            assert entry.billed

    def test_a_trickle_arrives_byte_by_byte_and_whole(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        claude.faults(Fault(trickle=0.0001, reply="Slow."))

        assert text_of(ask(sdk)) == "Slow."
        assert claude.ledger()[0].delivered

    def test_a_delay_holds_the_reply_back(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        claude.faults(Fault(delay=0.2))
        ask(sdk)

        (entry,) = claude.ledger()
        assert entry.finished_at is not None
        assert entry.finished_at - entry.received_at >= 0.2

    def test_an_error_event_is_a_status_error_with_status_200(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        claude.faults({"sse_error": {"type": "overloaded_error"}})

        with pytest.raises(anthropic.APIStatusError) as raised:
            stream(sdk)
        assert raised.value.status_code == 200
        assert raised.value.type == "overloaded_error"

    def test_a_clean_end_without_message_stop_raises_nothing(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        claude.faults(Fault(eof=True), {"eof": True, "at": {"events": 4}})

        assert stream(sdk)[-1].type == "message_delta"
        assert stream(sdk)[-1].type == "content_block_delta"
        assert not claude.ledger()[0].delivered

    def test_html_with_200_is_a_str(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        claude.faults(
            {"status": 200, "headers": {"content-type": "text/html"}, "body": "<html></html>"}
        )
        reply: object = sdk.messages.create(
            model=MODEL, max_tokens=5, messages=[{"role": "user", "content": TEXT}]
        )

        assert reply == "<html></html>"

    @pytest.mark.parametrize("call", [ask, stream])
    def test_broken_json_raises_a_decode_error(
        self, sdk: Anthropic, claude: SimulatedClaude, call: Any
    ) -> None:
        claude.faults(Fault(broken_json=True))

        with pytest.raises(json.JSONDecodeError):
            call(sdk)
        assert claude.ledger()[0].billed

    @pytest.mark.parametrize("reason", ["refusal", "max_tokens", "pause_turn"])
    def test_a_stop_reason_is_overridden(
        self, sdk: Anthropic, claude: SimulatedClaude, reason: Any
    ) -> None:
        claude.faults(Fault(stop_reason=reason, times=2))
        message = ask(sdk)

        assert message.stop_reason == reason
        assert stream(sdk)[-2].delta.stop_reason == reason
        assert (message.content == []) == (reason == "refusal")
        assert (message.stop_details is not None) == (reason == "refusal")

    @pytest.mark.parametrize(
        "content",
        ["fenced", "prose", "truncated", "missing_field", "wrong_type", "capitalised_enum"],
    )
    def test_damaged_content_fails_validation(
        self, sdk: Anthropic, claude: SimulatedClaude, content: Any
    ) -> None:
        claude.faults(Fault(content=content))
        message = ask(sdk, output_config=ANALYSIS)

        assert message.stop_reason == "end_turn"
        with pytest.raises(ValidationError):
            Analysis.model_validate_json(text_of(message))

    def test_unusual_content_is_still_whole(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        claude.faults(Fault(content="thinking_first"), Fault(content="split"))
        thinking = ask(sdk, output_config=ANALYSIS)
        split = ask(sdk, output_config=ANALYSIS)

        assert [block.type for block in thinking.content] == ["thinking", "text"]
        assert [block.type for block in split.content] == ["text"] * 3
        assert text_of(thinking) == text_of(split)
        Analysis.model_validate_json(text_of(split))

    def test_an_empty_reply_has_no_content(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        claude.faults(Fault(content="empty"))
        message = ask(sdk)

        assert message.content == []
        assert message.usage.output_tokens > 0

    def test_a_malformed_fault_is_refused(self, claude: SimulatedClaude) -> None:
        malformed: list[Any] = [{"statuss": 500}, {"cut": True, "eof": True}, {"at": {}}]
        for fault in malformed:
            with pytest.raises(ValidationError):
                claude.faults(fault)


class TestLedger:
    def test_costs_are_exact(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        usage = ask(sdk, metadata={"user_id": "job-1"}).usage
        (entry,) = claude.ledger()

        assert entry.tag == "job-1"
        assert entry.cost_usd == (
            Decimal(2) * usage.input_tokens + Decimal(10) * usage.output_tokens
        ) / Decimal(1_000_000)

    def test_totals_equal_what_the_sdk_saw(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        seen = [ask(sdk, f"{TEXT} {number}").usage for number in range(10)]
        seen += [
            event.message.usage.model_copy(update={"output_tokens": events[-2].usage.output_tokens})
            for events in (stream(sdk, f"{number} {TEXT}") for number in range(10))
            for event in events[:1]
        ]
        entries = claude.ledger()

        assert all(entry.delivered and entry.outcome == "ok" for entry in entries)
        assert [e.usage.input_tokens for e in entries] == [u.input_tokens for u in seen]
        assert [e.usage.output_tokens for e in entries] == [u.output_tokens for u in seen]
        assert [entry.index for entry in claude.ledger(since=15)] == [15, 16, 17, 18, 19]

    def test_a_refused_request_is_entered_but_not_billed(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        with pytest.raises(anthropic.NotFoundError):
            ask(sdk, model="unknown")

        (entry,) = claude.ledger()
        assert (entry.status, entry.outcome, entry.billed) == (404, "error", False)

    def test_prompt_caching_is_billed_by_ttl(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        def system(ttl: str) -> Any:
            control = {"type": "ephemeral", "ttl": ttl}
            return [{"type": "text", "text": f"{ttl} rules. " * 800, "cache_control": control}]

        for ttl in ("5m", "5m", "1h", "1h"):
            ask(sdk, system=system(ttl))
        write_5m, read_5m, write_1h, read_1h = (entry.usage for entry in claude.ledger())

        assert write_5m.cache_write_5m_tokens > 1024
        assert write_1h.cache_write_1h_tokens == write_5m.cache_write_5m_tokens
        assert read_5m.cache_read_tokens == write_5m.cache_write_5m_tokens
        assert read_1h.cache_read_tokens == write_1h.cache_write_1h_tokens
        assert len({usage.prompt_tokens for usage in claude_usages(claude)}) == 1

    def test_haiku_bills_long_prompts_at_five_times_the_price(
        self, sdk: Anthropic, claude: SimulatedClaude
    ) -> None:
        for characters in (399_000, 401_000):
            ask(sdk, "x" * characters, model="claude-haiku-5-5")
        short, long = claude.ledger()

        assert (
            short.cost_usd
            == Decimal("0.1") * 99_750 / 10**6 + Decimal("0.5") * short.usage.output_tokens / 10**6
        )
        assert long.cost_usd > 5 * short.cost_usd

    def test_requests_in_flight_are_counted(self, sdk: Anthropic, claude: SimulatedClaude) -> None:
        claude.faults(Fault(delay=0.5, times=None))
        threads = [threading.Thread(target=ask, args=(sdk,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        stats = claude.stats()
        assert stats["max_in_flight"] == 5
        assert (stats["requests"], stats["in_flight"]) == (5, 0)


def claude_usages(claude: SimulatedClaude) -> list[Any]:
    return [entry.usage for entry in claude.ledger()]


class TestProcess:
    def test_it_comes_back_at_the_same_url(self) -> None:
        claude = SimulatedClaude()
        with claude:
            url, pid = claude.url, claude.pid
            claude.kill()
            assert not psutil.pid_exists(pid)
            claude.start()

            assert claude.url == url
            assert claude.ledger() == []

    def test_it_dies_with_its_parent(self) -> None:
        script = (
            "from sandbox.claude.client import SimulatedClaude; import signal\n"
            "print(SimulatedClaude().start().pid, flush=True); signal.pause()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            os.kill(parent.pid, signal.SIGKILL)
            child.wait(5)

    def test_a_port_in_use_is_reported(
        self, claude: SimulatedClaude, capfd: pytest.CaptureFixture[str]
    ) -> None:
        port = int(claude.url.rsplit(":", 1)[1])

        with pytest.raises(RuntimeError, match="did not start"):
            SimulatedClaude(port=port).start()
        assert "address already in use" in capfd.readouterr().err
