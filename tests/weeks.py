"""Figures of a week, made by a price list that can be reckoned with in one's head."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from worker.storage.figures import Figures

#: Dollars of an input and of an output token.
PRICES = {
    "haiku": (Fraction(1, 10**6), Fraction(5, 10**6)),
    "opus": (Fraction(5, 10**6), Fraction(25, 10**6)),
}


def week(
    jobs: int,
    output: int,
    *,
    reading: int = 1000,
    replies: int | None = None,
    hits: int = 0,
    batch: bool = False,
    prompt_cache: str = "0",
    model: str = "haiku",
) -> dict[str, Figures]:
    """Jobs that each wrote `output` tokens a reply, by the price list."""
    calls = jobs - hits if replies is None else replies
    read, write = PRICES[model]
    one = read * reading + write * output
    full = Decimal(int(one * calls * 10**8) + int(one * hits * 10**8)) / 10**8
    saved_by_cache = Decimal(int(one * hits * 10**8)) / 10**8
    before_batch = full - saved_by_cache - Decimal(prompt_cache)
    batched = before_batch / 2 if batch else Decimal(0)
    figures = Figures(
        jobs=jobs,
        calls=calls,
        replies=calls,
        cache_hits=hits,
        input_tokens=reading * calls,
        output_tokens=output * calls,
        cost_usd=before_batch - batched,
        full_cost_usd=full,
        saved_by_prompt_cache_usd=Decimal(prompt_cache),
        saved_by_batch_usd=batched,
        saved_by_cache_usd=saved_by_cache,
    )
    return {model: figures}
