"""What a call costs: by the public price list, and by the prices that were negotiated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from genai_prices import Usage, calc_price

from worker.claude.price_overrides import (
    VARIABLE,
    Discounted,
    Negotiated,
    PriceOverrides,
    load_overrides,
)
from worker.claude.reply import Tokens
from worker.errors import ConfigurationError
from worker.settings import get_settings

#: What a request of a batch costs, of the price of a plain one; the same for every model and kind
#: of token (Anthropic's documentation of Message Batches). The price list is not asked: for models
#: and dates of which it knows no batch price it answers, without a word, with the full one.
BATCH_SHARE = Decimal("0.5")

_LIST_VERSION = f"genai-prices {version('genai-prices')}"
_PLACES = Decimal("0.00000001")


@dataclass(frozen=True)
class PriceBook:
    """The price list, and what a file of negotiated prices says instead."""

    overrides: PriceOverrides | None = None

    def __post_init__(self) -> None:
        if self.overrides is None:
            return
        for model, entry in self.overrides.models.items():
            if isinstance(entry, Discounted) and _list_price(model, Tokens(), None) is None:
                raise ConfigurationError(
                    f"{VARIABLE}: {self.overrides.path}: models.{model}.discount has no price to "
                    f"be taken from: {_LIST_VERSION} lacks this model; give all five prices"
                )

    @property
    def version(self) -> str:
        """What `usage.price_version` holds, e.g. `genai-prices 0.2.3 + prices.toml 3f2a91c0`.

        The last part is the beginning of the file's SHA-256.
        """
        return f"{_LIST_VERSION} + {self.overrides.label}" if self.overrides else _LIST_VERSION

    def cost_usd(
        self, model: str, tokens: Tokens, *, batch: bool = False, at: datetime | None = None
    ) -> Decimal | None:
        """See the function of this name."""
        cost = self._cost(model, tokens, at)
        if cost is None:
            return None
        return (cost * BATCH_SHARE if batch else cost).quantize(_PLACES)

    def full_cost_usd(
        self, model: str, tokens: Tokens, *, at: datetime | None = None
    ) -> Decimal | None:
        """See the function of this name."""
        return self.cost_usd(model, tokens.uncached(), at=at)

    def _cost(self, model: str, tokens: Tokens, at: datetime | None) -> Decimal | None:
        entry = self.overrides.of(model) if self.overrides else None
        if isinstance(entry, Negotiated):
            return entry.cost(tokens)
        cost = _list_price(model, tokens, at)
        return cost * (1 - entry.discount) if cost is not None and entry else cost


def price_book() -> PriceBook:
    """The prices that this process calculates with; the file is read once.

    Raises:
        ConfigurationError: one line that names the file and the key that is wrong.
    """
    return _book(get_settings().prices_file)


def cost_usd(
    model: str, tokens: Tokens, *, batch: bool = False, at: datetime | None = None
) -> Decimal | None:
    """The price in US dollars, to eight places; None for a model whose price is not known.

    `batch` is for a request that was part of a Message Batch. `at` is when it was made: the price
    list knows of changes; None means now.
    """
    return price_book().cost_usd(model, tokens, batch=batch, at=at)


def full_cost_usd(model: str, tokens: Tokens, *, at: datetime | None = None) -> Decimal | None:
    """The price of the same tokens outside of batches and had there been no prompt cache."""
    return price_book().full_cost_usd(model, tokens, at=at)


def price_version() -> str:
    """By which prices `cost_usd` calculates, for `usage.price_version`."""
    return price_book().version


@lru_cache(maxsize=1)
def _book(path: Path | None) -> PriceBook:
    return PriceBook(None if path is None else load_overrides(path))


def _list_price(model: str, tokens: Tokens, at: datetime | None) -> Decimal | None:
    """The price by the `genai-prices` package, exact.

    Its `input_tokens` is the total of all kinds of input, while the API's excludes what was read
    from or written to the prompt cache.
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
        price = calc_price(usage, model, provider_id="anthropic", genai_request_timestamp=at)
    except LookupError:
        return None
    return Decimal(price.total_price)
