from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot

from sandbox.claude.models import MODELS
from worker.claude.pricing import cost_usd, full_cost_usd, price_version
from worker.claude.reply import Tokens

MODEL = "claude-sonnet-5-5"
KINDS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")


def price(model: str = MODEL, **tokens: int) -> Decimal:
    cost = cost_usd(model, Tokens(**tokens))
    assert cost is not None
    return cost


def test_a_price_is_exact_to_eight_places() -> None:
    one = price(input=1)

    assert one.as_tuple().exponent == -8
    assert price(input=1_000) == one * 1_000
    assert price(output=3) == price(output=1) * 3


def test_kinds_of_tokens_are_priced_apart_and_add_up() -> None:
    kinds = dict(zip(KINDS, (7, 11, 13, 17, 19), strict=True))

    assert price(**kinds) == sum(price(**{kind: count}) for kind, count in kinds.items())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_costs_what_the_price_list_written_by_hand_says(model: str, kind: str) -> None:
    per_million = getattr(MODELS[model].prices, kind)

    assert price(model, **{kind: 1_000}) == per_million / 1_000


def test_thinking_is_part_of_the_output_and_not_billed_twice() -> None:
    assert price(output=100, thinking=60) == price(output=100)


def test_no_tokens_cost_nothing() -> None:
    assert price() == 0


@pytest.mark.parametrize("model", ["claude-imaginary-1", "", "gpt-4"])
def test_an_unknown_model_has_no_price_rather_than_none_to_pay(model: str) -> None:
    assert cost_usd(model, Tokens(input=1000, output=1000)) is None


def test_the_price_list_is_named_with_its_version() -> None:
    assert price_version().startswith("genai-prices ")
    assert "+" not in price_version()


BATCHED = [
    model.id
    for provider in get_snapshot().providers
    if provider.id == "anthropic"
    for model in provider.models
    if any(variant.when == {"processing": "batch"} for variant in model.price_variants or ())
]


@pytest.mark.parametrize("model", BATCHED)
@pytest.mark.parametrize("tokens", [999, 999_999])
def test_a_batch_costs_what_the_price_list_says_where_it_says_so(model: str, tokens: int) -> None:
    """Short and long prompts: some models have a price for each."""
    usage = Usage(
        input_tokens=4 * tokens,
        cache_read_tokens=tokens,
        cache_write_tokens=2 * tokens,
        cache_write_5m_tokens=tokens,
        cache_write_1h_tokens=tokens,
        output_tokens=tokens,
    )
    listed = calc_price(
        usage, model, provider_id="anthropic", price_context={"processing": "batch"}
    )

    cost = cost_usd(model, Tokens(**dict.fromkeys(KINDS, tokens)), batch=True)

    assert cost == listed.total_price.quantize(Decimal("1e-8"))


@pytest.mark.parametrize("model", [*MODELS, "claude-opus-4-1"])
def test_a_batch_costs_half_also_where_the_price_list_is_silent(model: str) -> None:
    """It knows of no batch price for Opus 4.1, nor for any model before October 2026."""
    tokens = Tokens(input=1000, output=1000)
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)

    for at in (None, long_ago):
        whole, half = cost_usd(model, tokens, at=at), cost_usd(model, tokens, batch=True, at=at)
        assert whole is not None
        assert half == whole / 2


def test_a_call_costs_what_it_did_on_its_day() -> None:
    """Long prompts of this model were dearer until March 2026."""
    tokens = Tokens(input=300_000)
    then = cost_usd("claude-opus-4-6", tokens, at=datetime(2026, 3, 1, tzinfo=UTC))
    now = cost_usd("claude-opus-4-6", tokens)

    assert then is not None
    assert now is not None
    assert then > now


@pytest.mark.parametrize("model", MODELS)
def test_the_full_price_knows_no_prompt_cache(model: str) -> None:
    tokens = Tokens(input=7, cache_read=11, cache_write_5m=13, cache_write_1h=17, output=19)

    assert full_cost_usd(model, tokens) == price(model, input=7 + 11 + 13 + 17, output=19)
