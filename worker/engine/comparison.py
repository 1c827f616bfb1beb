"""Two versions of a prompt side by side: what differs, and whether that means anything yet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from worker.engine.intervals import (
    CONFIDENCE,
    Estimate,
    Z,
    logarithm,
    quantile,
    share,
    skewed_mean,
)

#: Fewer jobs of a version, or users, say nothing that could be trusted.
_FEWEST_JOBS, _FEW_USERS = 10, 10
#: How likely the jobs that are asked for show the difference, if it is as large as it looks.
_POWER = 0.8
_ROOM = ((Z + NormalDist().inv_cdf(_POWER)) / Z) ** 2
#: More than so many times the jobs there are is no answer.
_MOST = 20

Unit = Literal["share", "tokens", "ms", "dollars"]


@dataclass(frozen=True, slots=True)
class ComparedJob:
    """What a job came to; None where its first call has no answer to tell it from.

    `variant` is `release:<id>` if a release chose its version, `cost` in dollars, of all its calls.
    """

    version: str
    variant: str
    user: Hashable
    outcome: str | None
    repaired: bool
    tokens: int | None
    latency_ms: int | None
    failed_checks: frozenset[str] = frozenset()
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of both versions: the difference B - A of shares, the ratio B / A of the rest."""

    name: str
    unit: Unit
    a: Estimate | None
    b: Estimate | None
    difference: Estimate | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All lines, and what is to be known before reading them."""

    a: str
    b: str
    jobs: dict[str, int]
    users: dict[str, int]
    side_by_side: bool
    notes: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


Sample = tuple[Sequence[float], Sequence[Hashable]]
Estimator = Callable[[Sequence[float], Sequence[Hashable]], Estimate]
Value = Callable[[ComparedJob], float | None]


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured of a job; `less` and `more` say what a difference means for B."""

    name: str
    unit: Unit
    value: Value
    estimate: Estimator
    less: str
    more: str

    def line(self, a: Sequence[ComparedJob], b: Sequence[ComparedJob]) -> Line:
        """Both versions in this measure."""
        sample_a, sample_b = self._sample(a), self._sample(b)
        of_a = self.estimate(*sample_a) if sample_a[0] else None
        of_b = self.estimate(*sample_b) if sample_b[0] else None
        if of_a is None or of_b is None:
            return Line(self.name, self.unit, of_a, of_b, None, "nothing to compare with")
        sizes = len(sample_a[0]), len(sample_b[0])
        if self.unit == "share":
            difference, neutral = of_b.minus(of_a), 0.0
        else:
            ratio = of_b.divided_by(of_a)
            if ratio is None:
                return Line(self.name, self.unit, of_a, of_b, None, "no ratio: one of them is 0")
            difference, neutral = ratio, 1.0
        if min(sizes) < _FEWEST_JOBS:
            verdict = f"too few jobs: {min(sizes)} of one version"
        elif difference.excludes(neutral):
            verdict = f"B {self.less if difference.value < neutral else self.more}"
        else:
            verdict = _too_early(difference, neutral, sum(sizes))
        return Line(self.name, self.unit, of_a, of_b, difference, verdict)

    def _sample(self, jobs: Iterable[ComparedJob]) -> Sample:
        told = [(value, job.user) for job in jobs if (value := self.value(job)) is not None]
        return [value for value, _ in told], [user for _, user in told]


def compare(a: str, b: str, jobs: Iterable[ComparedJob]) -> Comparison:
    """Compare version `b` with `a`, on the jobs that ran on either.

    Where a release served both, only its jobs are compared: who got which was left to chance.
    """
    of_either = [job for job in jobs if job.version in (a, b)]
    notes: list[str] = []
    together = _served_together(a, b, of_either)
    if together:
        chosen = [job for job in of_either if job.variant in together]
        notes += _side_by_side(a, chosen, together, left_out=len(of_either) - len(chosen))
    else:
        chosen = of_either
        notes.append(
            "not served at the same time: inputs, users or the model may have changed between them,"
            " and a difference may come from that"
        )
    of_a, of_b = ([job for job in chosen if job.version == version] for version in (a, b))
    users = {a: len({job.user for job in of_a}), b: len({job.user for job in of_b})}
    if min(users.values()) < min(_FEW_USERS, len(of_a), len(of_b)):
        notes.append(
            f"only {min(users.values())} users got one of them: intervals are too narrow, as one "
            "user more could change the picture"
        )
    lines = [measure.line(of_a, of_b) for measure in _measures(chosen)]
    sizes = {a: len(of_a), b: len(of_b)}
    return Comparison(a, b, sizes, users, bool(together), notes, lines)


def caution(lines: int) -> str:
    """What the numbers in a table of so many lines mean, and do not mean."""
    chance = 1 - CONFIDENCE**lines
    return (
        f"In brackets: {CONFIDENCE:.0%} confidence, for each line by itself. Of two versions that "
        f"do not differ, one or more of {lines} lines would seem to with a chance of up to "
        f'{chance:.0%}: decide beforehand which line counts. "About N more jobs", of both '
        "together, would show a difference as large as the one seen with a chance of "
        f"{_POWER:.0%}."
    )


def _served_together(a: str, b: str, jobs: Iterable[ComparedJob]) -> set[str]:
    """The releases that served both."""
    served: dict[str, set[str]] = {a: set(), b: set()}
    for job in jobs:
        if job.variant.startswith("release:"):
            served[job.version].add(job.variant)
    return served[a] & served[b]


def _side_by_side(
    a: str, jobs: Sequence[ComparedJob], releases: set[str], left_out: int
) -> list[str]:
    numbers = sorted(int(release.partition(":")[2]) for release in releases)
    named = f"release{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
    notes = [f"served side by side by {named}: who got which was left to chance, user by user"]
    if left_out:
        notes.append(f"{left_out:,} jobs of other times are left out")
    totals, of_a = Counter(job.variant for job in jobs), Counter[str]()
    for job in jobs:
        of_a[job.variant] += job.version == a
    shares = [of_a[release] / totals[release] for release in releases]
    if max(shares) - min(shares) > 0.1:
        notes.append(
            "the shares changed from release to release, so the versions did not have the same "
            "mix of days: narrow it down with --since to the newest one"
        )
    return notes


def _too_early(difference: Estimate, neutral: float, jobs: int) -> str:
    """How many jobs more would show a difference of this size, where there is one.

    Intervals shrink with the root of the number of jobs.
    """
    if neutral:  # a ratio: on its logarithm
        values = (difference.value, difference.low, difference.high)
        difference, neutral = Estimate(*map(logarithm, values)), 0.0
    size = abs(difference.value)
    reach = (
        difference.value - difference.low
        if difference.value > 0
        else (difference.high - difference.value)
    )
    if math.isinf(reach):
        return "too few jobs to tell"
    needed = jobs * (_ROOM * (reach / size) ** 2 - 1) if size else math.inf
    if needed > _MOST * jobs:
        return "no difference to be seen"
    return f"too early to say: about {_rounded(needed)} more jobs"


def _rounded(number: float) -> str:
    digits = max(0, len(str(math.ceil(number))) - 2)
    return f"{math.ceil(number / 10**digits) * 10**digits:,}"


def _measures(jobs: Sequence[ComparedJob]) -> list[Measure]:
    def outcome(*wanted: str) -> Value:
        return lambda job: None if job.outcome is None else job.outcome in wanted

    def failed(check: str) -> Value:
        return lambda job: None if job.outcome is None else check in job.failed_checks

    def answered(value: float | None, job: ComparedJob) -> float | None:
        return None if job.outcome in (None, "refused") else value

    def shares(name: str, value: Value) -> Measure:
        return Measure(name, "share", value, share, "better", "worse")

    def quantiles(name: str, unit: Unit, value: Value, less: str, more: str) -> Iterable[Measure]:
        for part in (0.5, 0.95):

            def estimate(
                values: Sequence[float], users: Sequence[Hashable], part: float = part
            ) -> Estimate:
                return quantile(values, users, part)

            yield Measure(f"{name} p{part * 100:.0f}", unit, value, estimate, less, more)

    checks = Counter(check for job in jobs for check in job.failed_checks)
    return [
        Measure("valid at once", "share", outcome("ok"), share, "worse", "better"),
        shares("repaired", lambda job: None if job.outcome is None else job.repaired),
        *(shares(f"fails {check}", failed(check)) for check, _ in checks.most_common(10)),
        shares("refused", outcome("refused")),
        shares("cut off", outcome("truncated")),
        *quantiles("output tokens", "tokens", lambda j: answered(j.tokens, j), "shorter", "longer"),
        *quantiles("latency", "ms", lambda j: answered(j.latency_ms, j), "faster", "slower"),
        Measure("cost per job", "dollars", lambda job: job.cost, skewed_mean, "cheaper", "dearer"),
    ]
