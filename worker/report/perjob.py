"""What a job of a group came to on average: in numbers that can be weighted and added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from operator import attrgetter

from worker.storage.figures import Figures

#: Dollars of an input and of an output token of a model, outside of batches and of the prompt
#: cache; None where nobody knows.
UnitPrices = Callable[[str], tuple[Fraction, Fraction] | None]

_ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class PerJob:
    """Means over all jobs of a group, those included that were served without a call.

    Dollars: `full` is the full price, what was `saved…` is a part of it. `input_value` and
    `output_value` are the full price of the tokens by today's price list.
    """

    full: Fraction = _ZERO
    saved_by_prompt_cache: Fraction = _ZERO
    saved_by_batch: Fraction = _ZERO
    saved_by_cache: Fraction = _ZERO
    saved_by_coalescing: Fraction = _ZERO
    asked: Fraction = _ZERO
    replies: Fraction = _ZERO
    input_tokens: Fraction = _ZERO
    output_tokens: Fraction = _ZERO
    input_value: Fraction = _ZERO
    output_value: Fraction = _ZERO

    @property
    def cost(self) -> Fraction:
        """Dollars that were paid."""
        return self.before_batch - self.saved_by_batch

    @property
    def before_batch(self) -> Fraction:
        """Dollars that would have been paid without batches."""
        hits = self.saved_by_cache + self.saved_by_coalescing
        return self.full - hits - self.saved_by_prompt_cache

    @property
    def cache_share(self) -> Fraction:
        """What hits of the result cache saved of the full price."""
        return self.saved_by_cache / self.full if self.full else _ZERO

    @property
    def coalescing_share(self) -> Fraction:
        """What coalescing saved of the full price."""
        return self.saved_by_coalescing / self.full if self.full else _ZERO

    @property
    def batch_share(self) -> Fraction:
        """What batches saved of what would have been paid without them."""
        return self.saved_by_batch / self.before_batch if self.before_batch else _ZERO


_NAMES = tuple(field.name for field in fields(PerJob))
_values = attrgetter(*_NAMES)


def mean(parts: Iterable[tuple[Fraction, PerJob]]) -> PerJob:
    """The weighted mean; the weights need not add up to one, but not to zero."""
    weighted = [(weight, _values(each)) for weight, each in parts]
    whole = sum((weight for weight, _ in weighted), _ZERO)
    columns = zip(*(values for _, values in weighted), strict=True)
    weights = [weight / whole for weight, _ in weighted]
    return PerJob(*(sum(w * v for w, v in zip(weights, column, strict=True)) for column in columns))


def per_job(by_model: Mapping[str, Figures], prices: UnitPrices) -> PerJob | None:
    """The mean over a group's jobs; None if it has none.

    A group's calls may be of several models: a fallback's, or a job's own.
    """
    jobs = sum(each.jobs for each in by_model.values())
    if not jobs:
        return None
    sums = dict.fromkeys(_NAMES, _ZERO)
    priced = True
    for model, each in by_model.items():
        sums["full"] += Fraction(each.full_cost_usd)
        sums["saved_by_prompt_cache"] += Fraction(each.saved_by_prompt_cache_usd)
        sums["saved_by_batch"] += Fraction(each.saved_by_batch_usd)
        sums["saved_by_cache"] += Fraction(each.saved_by_cache_usd)
        sums["saved_by_coalescing"] += Fraction(each.saved_by_coalescing_usd)
        sums["asked"] += each.jobs - each.hits
        sums["replies"] += each.replies
        sums["input_tokens"] += each.all_input_tokens
        sums["output_tokens"] += each.output_tokens
        unit = prices(model)
        if unit is None:
            priced = priced and not each.cost_usd
        else:
            sums["input_value"] += unit[0] * each.all_input_tokens
            sums["output_value"] += unit[1] * each.output_tokens
    if not priced:  # half of the tokens' value would say something wrong about all of them
        sums["input_value"] = sums["output_value"] = _ZERO
    return PerJob(*(sums[name] / jobs for name in _NAMES))
