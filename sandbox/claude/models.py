"""The models that the simulated Claude serves, their limits and their prices.

The prices are written here by hand, so that the ledger is an oracle that shares no code and no
data with the price table of the system under test.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per million tokens."""

    input: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    output: Decimal


@dataclass(frozen=True, slots=True)
class Model:
    """One model: token limits, and what a token costs.

    A prompt of more than `long_prompt_tokens` (cached tokens included) has every token of its
    request billed at `long_prices`. `thinking` holds the types that a request may ask for, the
    default first; whether forced tools and which types are accepted is from the migration guides.
    """

    prices: Prices
    max_output_tokens: int
    min_cacheable_tokens: int
    context_tokens: int = 1_000_000
    long_prompt_tokens: int | None = None
    long_prices: Prices | None = None
    thinking: tuple[str, ...] = ("adaptive",)
    thinking_display: Literal["summarized", "omitted"] = "omitted"
    forces_tools: bool = False


def _prices(input_: str, cache_read: str, write_5m: str, write_1h: str, output: str) -> Prices:
    return Prices(
        input=Decimal(input_),
        cache_read=Decimal(cache_read),
        cache_write_5m=Decimal(write_5m),
        cache_write_1h=Decimal(write_1h),
        output=Decimal(output),
    )


MODELS = {
    "claude-opus-5-5": Model(
        prices=_prices("4", "0.2", "5", "8", "20"),
        max_output_tokens=128_000,
        min_cacheable_tokens=1024,
    ),
    "claude-sonnet-5-5": Model(
        prices=_prices("2", "0.1", "2.5", "4", "10"),
        max_output_tokens=128_000,
        min_cacheable_tokens=1024,
        thinking=("adaptive", "between_tools"),
    ),
    "claude-haiku-5-5": Model(
        prices=_prices("0.1", "0.01", "0.125", "0.2", "0.5"),
        max_output_tokens=64_000,
        min_cacheable_tokens=2048,
        long_prompt_tokens=100_000,
        long_prices=_prices("0.5", "0.05", "0.625", "1", "2.5"),
        thinking=("adaptive", "disabled"),
        forces_tools=True,
    ),
    # Deprecated, yet served until the end of November 2026.
    "claude-sonnet-4-5": Model(
        prices=_prices("3", "0.3", "3.75", "6", "15"),
        max_output_tokens=64_000,
        min_cacheable_tokens=1024,
        context_tokens=200_000,
        thinking=("disabled", "enabled"),
        thinking_display="summarized",
        forces_tools=True,
    ),
}
"""Every other name is answered with a 404, retired models (`claude-sonnet-4-20250514`) included."""
