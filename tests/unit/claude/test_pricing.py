from __future__ import annotations

from decimal import Decimal

import pytest

from sandbox.claude.models import MODELS
from worker.claude.pricing import PRICE_VERSION, cost_usd
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
    assert PRICE_VERSION.startswith("genai-prices ")
