"""Whether calls are worse than they may be, asked again after every call, for ever.

A test that is repeated until it speaks will speak. What holds however often one looks is a bet: put
a part c of what you have on every call, at odds that are fair if the mean of what is counted is at
most `bound`. With x ≥ 0 counted, what you have is multiplied by 1 - c + c·x/bound: at most by 1
on average, so the chance of ever having k times what you began with is 1/k at most. [Ville, Étude
critique de la notion de collectif, 1939; Robbins, "Statistical Methods Related to the Law of the
Iterated Logarithm", Annals of Mathematical Statistics 41, 1970; Howard, Ramdas, McAuliffe & Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49, 2021;
Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024]

Which c grows fastest depends on how bad it is, which nobody knows: the stake is divided among nine.

The bound rests on what was seen before, and that is a sample too. Two bounds of the mean of new
calls that are like the old ones, each exceeded with a chance of `error` at most:

- `share_bound`, of a proportion. [Chernoff, "A Measure of Asymptotic Efficiency for Tests of a
  Hypothesis Based on the Sum of Observations", Annals of Mathematical Statistics 23, 1952]
- `score_bound`, of a mean of ranks. n old values cut the line into n + 1 gaps, and how likely a new
  one is to fall into each is Dirichlet(1, …, 1), whatever the distribution. [Wilks, Mathematical
  Statistics, 1962, on coverages]

Ranks know no distribution, so neither skew nor outliers raise a false alarm. They are scored like
exponential waiting times – the k-th of n counts 1/n + 1/(n-1) + … – so that a reply longer than all
before says most. [Savage, "Contributions to the Theory of Rank Order Statistics", Annals of
Mathematical Statistics 27, 1956]
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

#: The parts that are put on a call, each from an equal part of the stake.
PARTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)

#: Beyond this nothing is won any more, so that nothing overflows.
_RICH = 1e300

_STEPS = 40


def opening() -> list[float]:
    """What each part of the stake is before anything was seen."""
    return [1.0] * len(PARTS)


def wager(stakes: Sequence[float], counted: float, bound: float) -> list[float]:
    """What each part has become after one more call, of which `counted` was counted.

    One that has dwindled to nothing stays so, which can only delay an alarm.
    """
    gain = counted / bound - 1
    return [
        min(stake * (1 + part * gain), _RICH) for stake, part in zip(stakes, PARTS, strict=True)
    ]


def evidence(stakes: Sequence[float]) -> float:
    """How many times the whole stake it has become: ever k or more with a chance of 1/k."""
    return sum(stakes) / len(stakes)


@lru_cache(maxsize=64)
def share_bound(hits: int, calls: int, error: float) -> float:
    """The share that `hits` of `calls` may come from, at most."""
    if calls == 0:
        return 1.0
    seen, limit = hits / calls, -math.log(error) / calls
    return _least(lambda share: _divergence(seen, share) >= limit, seen, 1.0)


def _divergence(seen: float, share: float) -> float:
    """Kullback and Leibler's, of two coins; `share` is not below `seen`."""
    if share >= 1:
        return 0.0 if seen >= 1 else math.inf
    heads = seen * math.log(seen / share) if seen else 0.0
    tails = (1 - seen) * math.log((1 - seen) / (1 - share)) if seen < 1 else 0.0
    return heads + tails


@lru_cache(maxsize=64)
def savage_scores(size: int) -> tuple[float, ...]:
    """What a value above exactly 0, 1 … `size` of the old ones counts; 1 on average."""
    return tuple(accumulate(1 / (size + 1 - above) for above in range(size + 1)))


@lru_cache(maxsize=64)
def score_bound(size: int, error: float) -> float:
    """The mean score that new values like the `size` old ones can have, at most."""
    scores = savage_scores(size)
    limit = math.log(error)

    def holds(mean: float) -> bool:
        # P(Σ scores·W > mean) for W from exponentials, by Chernoff: E exp(θE) = 1/(1 - θ).
        def exponent(theta: float) -> float:
            return -sum(math.log1p(-theta * (score - mean)) for score in scores)

        return mean >= scores[-1] or _minimum(exponent, 1 / (scores[-1] - mean)) <= limit

    return _least(holds, 1.0, scores[-1])


def score(value: float, ordered: Sequence[float]) -> float:
    """What `value` counts among the sorted old ones; a tie counts as all its places on average."""
    sums = _sums(len(ordered))
    low, high = bisect_left(ordered, value), bisect_right(ordered, value)
    return (sums[high + 1] - sums[low]) / (high + 1 - low)


@lru_cache(maxsize=64)
def _sums(size: int) -> tuple[float, ...]:
    return (0.0, *accumulate(savage_scores(size)))


def _least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least number for which `holds` is true; it is for all above it, and for `high`."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def _minimum(function: Callable[[float], float], below: float) -> float:
    """The least value of a convex function that begins at 0 and ends, with a pole, at `below`."""
    low, high = 0.0, below * (1 - 1e-9)
    for _ in range(_STEPS):
        third = (high - low) / 3
        if function(low + third) < function(high - third):
            high -= third
        else:
            low += third
    return function((low + high) / 2)
