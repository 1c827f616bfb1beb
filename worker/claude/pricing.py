"""What a call costs, by the public price list."""

from __future__ import annotations

from decimal import Decimal
from importlib.metadata import version

from genai_prices import Usage, calc_price

from worker.claude.reply import Tokens

PRICE_VERSION = f"genai-prices {version('genai-prices')}"

_PLACES = Decimal("0.00000001")


def cost_usd(model: str, tokens: Tokens) -> Decimal | None:
    """The price in US dollars, to eight places; None for a model that the price list lacks.

    Prices come from the `genai-prices` package, whose `input_tokens` is the total of all kinds of
    input, while the API's excludes what was read from or written to the prompt cache.
    """
    written = tokens.cache_write_5m + tokens.cache_write_1h
    usage = Usage(
        input_tokens=tokens.input + tokens.cache_read + written,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=written,
        cache_write_5m_tokens=tokens.cache_write_5m,
        cache_write_1h_tokens=tokens.cache_write_1h,
        output_tokens=tokens.output,
    )
    try:
        price = calc_price(usage, model, provider_id="anthropic")
    except LookupError:
        return None
    return Decimal(price.total_price).quantize(_PLACES)
