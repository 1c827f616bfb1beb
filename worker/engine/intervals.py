"""Confidence intervals for what is measured of jobs, and for differences between two versions.

Where jobs of one user resemble each other, 1,000 jobs of ten users say less than 1,000 of a
thousand. The variance of a mean is therefore taken between users and not between jobs, and sizes
are divided by the *design effect*, its ratio to what independent jobs would have [Kish, Survey
Sampling, 1965].

- a share: Wilson's score interval [Wilson, "Probable Inference, the Law of Succession, and
  Statistical Inference", JASA 22, 1927], with the size so corrected, as [Korn & Graubard,
  "Confidence Intervals for Proportions with Small Expected Number of Positive Counts Estimated from
  Survey Data", Survey Methodology 24, 1998] do with another interval;
- a quantile: two order statistics, by the binomial distribution in its normal approximation
  [David & Nagaraja, Order Statistics, 2003, ch. 7]: nothing is assumed about the shape;
- a mean of costs: normal on the logarithm, by the delta method, as costs are skewed;
- a difference: from the two intervals, by the recovery of variances. For shares that is Newcombe's
  hybrid score interval [Newcombe, "Interval Estimation for the Difference Between Independent
  Proportions", Statistics in Medicine 17, 1998, method 10], in general that of Zou & Donner
  ["Construction of Confidence Limits about Effect Measures", Statistics in Medicine 27, 2008].
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the ends of its confidence interval; what nothing bounds ends at 0 or ∞."""

    value: float
    low: float
    high: float

    def minus(self, other: Estimate) -> Estimate:
        """The difference of two independent estimates (Newcombe; Zou & Donner)."""
        value = self.value - other.value
        return Estimate(
            value,
            value - math.hypot(self.value - self.low, other.high - other.value),
            value + math.hypot(self.high - self.value, other.value - other.low),
        )

    def divided_by(self, other: Estimate) -> Estimate | None:
        """The ratio, by the difference of logarithms; None unless both are above 0."""
        if min(self.value, other.value) <= 0:
            return None
        difference = self._logarithm().minus(other._logarithm())
        return Estimate(*map(math.exp, (difference.value, difference.low, difference.high)))

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval."""
        return not self.low <= value <= self.high

    def _logarithm(self) -> Estimate:
        return Estimate(*map(logarithm, (self.value, self.low, self.high)))


def logarithm(value: float) -> float:
    """The natural logarithm, of 0 as well."""
    return math.log(value) if value > 0 else -math.inf


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over jobs, and the square of its standard error between users."""

    value: float
    variance: float
    design_effect: float


def mean_of(values: Sequence[float], users: Sequence[Hashable]) -> Mean:
    """The mean of `values`; `users` says whose each is.

    The variance is that of a ratio of sums over users, linearised [Cochran, Sampling Techniques,
    1977, ch. 6]; it is never taken to be smaller than that of independent jobs.
    """
    size = len(values)
    mean = math.fsum(values) / size
    independent = math.fsum((value - mean) ** 2 for value in values) / max(size - 1, 1) / size
    if not independent:
        return Mean(mean, 0.0, 1.0)
    residuals: dict[Hashable, float] = {}
    for value, user in zip(values, users, strict=True):
        residuals[user] = residuals.get(user, 0.0) + value - mean
    groups = len(residuals)
    between = math.fsum(r * r for r in residuals.values()) / size**2 * groups / max(groups - 1, 1)
    variance = max(between, independent)
    return Mean(mean, variance, variance / independent)


def share(hits: Sequence[float], users: Sequence[Hashable]) -> Estimate:
    """The share of ones among zeros (Wilson, 1927)."""
    mean = mean_of(hits, users)
    return wilson(mean.value, len(hits) / mean.design_effect)


def wilson(seen: float, size: float) -> Estimate:
    """The interval of a share that was `seen` in a sample of `size`."""
    spread = Z * Z / size
    middle = (seen + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(seen * (1 - seen) / size + spread / size / 4)
    return Estimate(seen, max(0.0, min(seen, middle - half)), min(1.0, max(seen, middle + half)))


def quantile(values: Sequence[float], users: Sequence[Hashable], part: float) -> Estimate:
    """The value below which a `part` of values that are not negative lies, between two of them.

    Where there are too few, the largest is no bound: of 15 values it is below the 95th percentile
    with a chance of 46 %.
    """
    ordered = sorted(values)
    size = len(ordered)
    at = ordered[min(size - 1, math.floor(part * size))]
    below = mean_of([float(value <= at) for value in values], users)
    half = Z * math.sqrt(size * part * (1 - part) * below.design_effect)
    low, high = math.floor(part * size - half), math.ceil(part * size + half)
    return Estimate(
        at, ordered[low] if low >= 0 else 0.0, ordered[high] if high < size else math.inf
    )


def skewed_mean(values: Sequence[float], users: Sequence[Hashable]) -> Estimate:
    """The mean of values that are not negative; its interval is symmetric in logarithms."""
    mean = mean_of(values, users)
    if mean.value <= 0:
        return Estimate(mean.value, mean.value, mean.value)
    factor = math.exp(Z * math.sqrt(mean.variance) / mean.value)
    return Estimate(mean.value, mean.value / factor, mean.value * factor)
