from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.claude.models import MODELS
from worker.claude.price_overrides import load_overrides
from worker.claude.pricing import PriceBook, cost_usd, price_version
from worker.claude.reply import Tokens
from worker.errors import ConfigurationError
from worker.settings import get_settings

KINDS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
ALL = Tokens(input=1_000, output=2_000, cache_read=30_000, cache_write_5m=400, cache_write_1h=500)
SONNET, OPUS, HAIKU = "claude-sonnet-5-5", "claude-opus-5-5", "claude-haiku-5-5"
LIST = PriceBook()

CONTRACT = """
discount = "12.5%"

[models."claude-opus-5-5"]
discount = 0.2

[models."claude-sonnet-5-5"]
input = "1.80"
output = 9.00
cache_read = "0.09"
cache_write_5m = 2.25
cache_write_1h = 4
"""


def prices(**changed: str) -> str:
    lines = dict.fromkeys(KINDS, "1") | changed
    return "\n".join(f"{key} = {value}" for key, value in lines.items() if value)


@pytest.fixture
def book(tmp_path: Path) -> Callable[[str], PriceBook]:
    def read(text: str) -> PriceBook:
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return PriceBook(load_overrides(path))

    return read


def listed(model: str, tokens: Tokens = ALL) -> Decimal:
    cost = LIST.cost_usd(model, tokens)
    assert cost is not None
    return cost


def test_negotiated_prices_go_before_the_list_and_discounts_come_off_it(
    book: Callable[[str], PriceBook],
) -> None:
    contract = book(CONTRACT)

    by_hand = Decimal("0.0018") + Decimal("0.018") + Decimal("0.0027") + Decimal("0.0009")
    assert contract.cost_usd(SONNET, ALL) == by_hand + Decimal("0.002")
    assert contract.cost_usd(OPUS, ALL) == listed(OPUS) * Decimal("0.8")
    assert contract.cost_usd(HAIKU, ALL) == listed(HAIKU) * Decimal("0.875")


def test_a_batch_costs_half_of_what_was_negotiated(book: Callable[[str], PriceBook]) -> None:
    contract = book(CONTRACT)

    tokens = Tokens(input=8_000, output=8_000)
    for model in (SONNET, OPUS, HAIKU):
        whole = contract.cost_usd(model, tokens)
        assert whole is not None
        assert contract.cost_usd(model, tokens, batch=True) == whole / 2


def test_a_model_that_the_list_lacks_gets_a_price(book: Callable[[str], PriceBook]) -> None:
    new = book(f'[models."claude-next-6"]\n{prices(output="2.5")}')

    assert LIST.cost_usd("claude-next-6", ALL) is None
    assert new.cost_usd("claude-next-6", Tokens(output=1_000_000)) == Decimal("2.5")
    assert new.cost_usd("claude-imaginary-1", ALL) is None
    assert new.cost_usd(SONNET, ALL) == listed(SONNET)


def test_a_name_covers_its_dated_versions_unless_they_are_named(
    book: Callable[[str], PriceBook],
) -> None:
    contract = book(
        f'[models."{SONNET}"]\n{prices(output="2")}\n'
        f'[models."{SONNET}-20260801"]\n{prices(output="3")}'
    )

    million = Tokens(output=1_000_000)
    assert contract.cost_usd(SONNET, million) == 2
    assert contract.cost_usd(f"{SONNET}-20260701", million) == 2
    assert contract.cost_usd(f"{SONNET}-20260801", million) == 3


@given(
    price=st.decimals(0, 1000, places=8),
    tokens=st.lists(st.integers(0, 10_000_000), min_size=5, max_size=5),
)
def test_arithmetic_is_exact_to_the_last_place(price: Decimal, tokens: list[int]) -> None:
    """Compared with integers: prices as multiples of 1e-8 dollars per million tokens."""
    with pytest.MonkeyPatch.context() as patch:
        text = f"[models.m]\n{prices(**dict.fromkeys(KINDS, f'{price:f}'))}"
        patch.setattr(Path, "read_bytes", lambda _: text.encode())
        contract = PriceBook(load_overrides(Path("prices.toml")))
    cost = contract.cost_usd("m", Tokens(**dict(zip(KINDS, tokens, strict=True))))

    units, rest = divmod(int(price * 10**8) * sum(tokens), 10**6)
    rounded_up = rest * 2 > 10**6 or (rest * 2 == 10**6 and units % 2)
    assert cost == Decimal(units + bool(rounded_up)).scaleb(-8)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("discount", ['"10%"', '" 10 %"', '"0.1"', "0.1", "0.10"])
def test_a_discount_can_be_written_in_several_ways(
    book: Callable[[str], PriceBook], model: str, discount: str
) -> None:
    assert book(f"discount = {discount}").cost_usd(model, ALL) == listed(model) * 9 / 10


def test_an_empty_file_changes_nothing_but_the_version(book: Callable[[str], PriceBook]) -> None:
    empty = book("\ufeff# nothing negotiated yet\n")  # with the mark that Windows' editor adds

    assert empty.cost_usd(SONNET, ALL) == listed(SONNET)
    assert empty.version != LIST.version


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("discount = 15", 'discount is a percentage, "15%", or a share below 1, 0.15'),
        ('discount = "100%"', "discount is a percentage"),
        ('discount = "much"', "discount is a percentage"),
        ("discount = -0.1", "discount is a percentage"),
        ("discount = nan", "discount is a percentage"),
        ("discount = true", "discount is a percentage"),
        ("discont = 0.1", "discont is no key of this file: expected discount, models"),
        ("discount = ", "is not valid TOML"),
        ("discount = 0.1\ndiscount = 0.2", "is not valid TOML"),
        ("models = 3", "models input should be a valid dict"),
        ("[models]\nm = 3", "models.m input should be"),
        (f"[models.m]\n{prices(cache_read='')}", "models.m.cache_read is missing: a model has"),
        (f"[models.m]\n{prices(input='-1')}", "models.m.input input should be greater than"),
        (f"[models.m]\n{prices(input='inf')}", "models.m.input input should be a finite"),
        (f"[models.m]\n{prices(input='1e30')}", "models.m.input input should be less than"),
        (f"[models.m]\n{prices(output='true')}", "models.m.output decimal input should be"),
        (f"[models.m]\n{prices(output='$2'.join(2 * [chr(34)]))}", "models.m.output input should"),
        (f"[models.m]\n{prices(inputs='1')}", "models.m.inputs is no key of this file: expected"),
        (f"[models.m]\n{prices()}\ndiscount = 0.1", "models.m.input cannot stand beside a disc"),
        (f'[models."Claude Next"]\n{prices()}', "models.Claude Next is not a model's name"),
        (
            '[models."claude-sonet-5-5"]\ndiscount = 0.1',
            "models.claude-sonet-5-5.discount has no price to be taken from: genai-prices ",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_file_and_key(
    book: Callable[[str], PriceBook], text: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        book(text)

    line = str(caught.value)
    assert line.startswith("CLAUDE_JOBS_PRICES_FILE: /")
    assert "/prices.toml" in line
    assert complaint in line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"CLAUDE_JOBS_PRICES_FILE: .* cannot be read"):
        load_overrides(tmp_path / name)


def test_the_setting_is_what_counts_and_the_version_names_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(CONTRACT)
    monkeypatch.setenv("CLAUDE_JOBS_PRICES_FILE", str(path))
    get_settings.cache_clear()

    assert cost_usd(OPUS, ALL) == listed(OPUS) * Decimal("0.8")
    digest = hashlib.sha256(CONTRACT.encode()).hexdigest()
    assert price_version() == f"{LIST.version} + prices.toml {digest[:8]}"
