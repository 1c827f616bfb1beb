"""The simulated Batches API, through the real SDK."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic
from anthropic.types.messages import MessageBatch

from sandbox.claude.client import SimulatedClaude
from tests.integration.claude.asking import ANALYSIS, HEADERS, request

DAY = 86400.0


def entry(custom_id: str, text: str = "A word about tides.", **options: Any) -> Any:
    return {"custom_id": custom_id, "params": request(text, **options)}


def entries(number: int) -> list[Any]:
    return [entry(f"item-{index}", f"Text number {index} about tides.") for index in range(number)]


def ended(sdk: Anthropic, batch_id: str, eventually: Callable[..., None]) -> MessageBatch:
    def over() -> bool:
        return sdk.messages.batches.retrieve(batch_id).processing_status == "ended"

    eventually(over, "the batch did not end")
    return sdk.messages.batches.retrieve(batch_id)


def kinds(sdk: Anthropic, batch_id: str) -> dict[str, str]:
    return {line.custom_id: line.result.type for line in sdk.messages.batches.results(batch_id)}


def test_a_batch_is_processed_at_half_price_and_its_results_are_shuffled(
    sdk: Anthropic, claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    asked = entries(40)
    asked[3]["params"] |= {"output_config": ANALYSIS, "metadata": {"user_id": "u-3"}}
    batch = sdk.messages.batches.create(requests=asked)
    assert batch.id.startswith("msgbatch_")
    assert batch.request_counts.processing == 40
    assert (batch.expires_at - batch.created_at).total_seconds() == pytest.approx(DAY)
    done = ended(sdk, batch.id, eventually)
    assert done.request_counts.succeeded == 40
    assert done.results_url
    assert done.results_url.endswith(f"{batch.id}/results")
    order = [line.custom_id for line in sdk.messages.batches.results(batch.id)]
    assert sorted(order) == sorted(each["custom_id"] for each in asked)
    assert order != [each["custom_id"] for each in asked]
    billed = claude.ledger()
    assert {each.batch_id for each in billed} == {batch.id}
    assert next(each.tag for each in billed if each.custom_id == "item-3") == "u-3"
    plain = sdk.messages.create(**asked[0]["params"])
    full = claude.ledger()[-1].cost_usd
    half = next(each.cost_usd for each in billed if each.custom_id == "item-0")
    assert half * 2 == full > Decimal(0)
    first = next(
        line.result.message
        for line in sdk.messages.batches.results(batch.id)
        if line.custom_id == "item-0" and line.result.type == "succeeded"
    )
    assert first.content == plain.content
    assert first.usage.service_tier == "batch"


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ([], "at least 1 item"),
        ([entry("a b")], "should match pattern"),
        ([entry("x" * 65)], "should match pattern"),
        ([entry("")], "should match pattern"),
        ([entry("a"), entry("a")], "must be unique"),
        ([{"custom_id": "a"}], "params: Field required"),
        ([{"params": {}}], "custom_id: Field required"),
        ([entry("a") | {"more": 1}], "Extra inputs"),
        ([{"custom_id": "a", "params": []}], "params: Input should be an object"),
        (["a"], "Input should be an object"),
    ],
)
def test_a_malformed_batch_is_refused_as_a_whole(
    sdk: Anthropic, claude: SimulatedClaude, requests: Any, says: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=says):
        sdk.messages.batches.create(requests=requests)
    assert not claude.batches()


def test_more_than_100_000_requests_are_refused(sdk: Anthropic) -> None:
    one = {"custom_id": "", "params": {}}
    with pytest.raises(anthropic.BadRequestError, match="at most 100000"):
        sdk.messages.batches.create(
            requests=[one | {"custom_id": str(n)} for n in range(100_001)]  # type: ignore[misc]
        )


def test_invalid_parameters_make_that_item_errored(
    sdk: Anthropic, claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    asked = [
        entry("good"),
        entry("unknown", temperatures=1),
        entry("streamed", stream=True),
        {"custom_id": "empty", "params": {}},
    ]
    batch = sdk.messages.batches.create(requests=asked)
    ended(sdk, batch.id, eventually)
    assert Counter(kinds(sdk, batch.id).values()) == {"succeeded": 1, "errored": 3}
    results = {line.custom_id: line.result for line in sdk.messages.batches.results(batch.id)}
    errored = results["unknown"]
    assert errored.type == "errored"
    assert errored.error.error.type == "invalid_request_error"
    assert "Extra inputs" in errored.error.error.message
    assert sum(each.billed for each in claude.ledger()) == 1


def test_batches_are_listed_in_pages_the_newest_first(sdk: Anthropic) -> None:
    made = [sdk.messages.batches.create(requests=[entry("a")]).id for _ in range(5)]
    newest_first = made[::-1]
    page = sdk.messages.batches.list(limit=2)
    assert [each.id for each in page.data] == newest_first[:2]
    assert page.has_more
    assert [each.id for each in sdk.messages.batches.list(limit=2)] == newest_first
    before = sdk.messages.batches.list(limit=2, before_id=newest_first[3])
    assert [each.id for each in before.data] == newest_first[1:3]
    assert before.has_more
    with pytest.raises(anthropic.BadRequestError, match="between 1 and 1000"):
        sdk.messages.batches.list(limit=1001)
    with pytest.raises(anthropic.BadRequestError, match="together"):
        sdk.messages.batches.list(after_id=made[0], before_id=made[1])


def test_what_was_processed_before_a_cancel_or_the_end_of_the_day_stays(
    sdk: Anthropic, claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(batch_seconds=40 * 3600.0)
    batch = sdk.messages.batches.create(requests=entries(40))
    claude.advance_batches(10.5 * 3600)
    eventually(lambda: len(claude.ledger()) == 10, "ten were not processed")
    assert sdk.messages.batches.retrieve(batch.id).request_counts.processing == 40
    with pytest.raises(anthropic.NotFoundError):
        list(httpx_results(sdk, batch.id))
    with pytest.raises(anthropic.BadRequestError, match="in progress"):
        sdk.messages.batches.delete(batch.id)
    assert sdk.messages.batches.cancel(batch.id).processing_status == "canceling"
    done = ended(sdk, batch.id, eventually)
    assert (done.request_counts.succeeded, done.request_counts.canceled) == (10, 30)
    with pytest.raises(anthropic.BadRequestError, match="has ended"):
        sdk.messages.batches.cancel(batch.id)
    late = sdk.messages.batches.create(requests=entries(40))
    claude.advance_batches(DAY)
    done = ended(sdk, late.id, eventually)
    assert done.request_counts.expired > 0
    assert done.request_counts.succeeded + done.request_counts.expired == 40


def httpx_results(sdk: Anthropic, batch_id: str) -> Any:
    return sdk.get(f"/v1/messages/batches/{batch_id}/results", cast_to=httpx2.Response)


def test_results_are_gone_after_29_days_and_a_deleted_batch_at_once(
    sdk: Anthropic, claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    batch = sdk.messages.batches.create(requests=entries(2))
    ended(sdk, batch.id, eventually)
    claude.advance_batches(28 * DAY)
    assert len(kinds(sdk, batch.id)) == 2
    claude.advance_batches(1.1 * DAY)
    archived = sdk.messages.batches.retrieve(batch.id)
    assert archived.archived_at
    assert archived.results_url is None
    with pytest.raises(anthropic.NotFoundError, match="no longer available"):
        httpx_results(sdk, batch.id)
    assert sdk.messages.batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.batches.retrieve(batch.id)
    assert [each.id for each in sdk.messages.batches.list()] == []


def test_faults_strike_the_endpoints_and_items_that_they_name(
    sdk: Anthropic, claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.faults(
        {"on": "batch_create", "cut": True},
        {"on": "batch_get", "status": 404, "times": 2},
        {"on": "batch_item", "match": "number 1 ", "status": 500},
        {"on": "batch_item", "match": "number 2 ", "result": "expired"},
        {"on": "batch_item", "match": "number 3 ", "result": "canceled"},
        {"on": "batch_item", "match": "number 4 ", "content": "fenced"},
        {"on": "batch_results", "cut": True, "at": {"bytes": 500}},
    )
    with pytest.raises(anthropic.APIConnectionError):
        sdk.messages.batches.create(requests=entries(6))
    [batch] = sdk.messages.batches.list()  # it exists all the same
    for _ in range(2):
        with pytest.raises(anthropic.NotFoundError):
            sdk.messages.batches.retrieve(batch.id)
    ended(sdk, batch.id, eventually)
    with pytest.raises(httpx2.HTTPError):
        kinds(sdk, batch.id)
    assert kinds(sdk, batch.id) == {
        "item-0": "succeeded",
        "item-1": "errored",
        "item-2": "expired",
        "item-3": "canceled",
        "item-4": "succeeded",
        "item-5": "succeeded",
    }
    assert sum(each.billed for each in claude.ledger()) == 3
    assert not claude.remaining_faults()


def test_unknown_paths_methods_and_keys_are_refused(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    with httpx2.Client(trust_env=False, base_url=claude.url, headers=HEADERS) as client:
        assert client.get("/v1/messages/batches/none/none").status_code == 404
        assert client.put("/v1/messages/batches").status_code == 404
        assert client.get("/v1/messages/batches?page=2").status_code == 400
        assert client.get("/v1/messages/batches", headers={"x-api-key": ""}).status_code == 401
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.batches.retrieve("msgbatch_none")
