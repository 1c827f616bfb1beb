"""Whether a version that was just released is worse than the one whose jobs it took over.

Pure arithmetic on first replies – the first call of a job's first attempt, as far as its outcome
says something about the prompt – in the order in which they are looked at:

- *Baseline*: the last replies of the old version, up to 1,000 of them, when the watch begins.
- Four things are counted of each reply of a new version: whether it was not accepted; whether it
  was refused or cut off; how long it is; what it cost. A length or a cost is divided by the factor
  that is allowed and ranked among the baseline's: "at most 1.5 times as long" means that such
  quotients are like the old lengths, or smaller.
- Each count is a bet against "no worse than the bound allows" (`worker.engine.sequential`), so the
  probability of a false alarm – in one of the four, of any version of the release, however many
  calls are made and however often anyone looks – is `Limits.false_alarms` at most, if calls
  are like those before the release and do not depend on each other.
- They do depend where one user sends many, and always gets the same version. So a user counts with
  five calls a version at most, unless fewer than twenty users are behind the baseline: then those
  few are the traffic. Calls of nobody count each for itself.
- They are not like those before where something else changed: the model, the inputs. What the old
  version still serves is a *control*: if it became worse as well, it was not the release.
- No alarm comes before the twentieth reply of a version.
- Without a baseline of 50 replies there is no comparison: then more than a fifth that is not
  accepted, or refused or cut off, is worth an alarm, and nothing else is.

Measured in `tests/unit/engine/test_watchdog.py`, on a small scale: how soon what is found, and that
nothing is found where there is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from worker.engine import sequential
from worker.engine.baseline import (
    METRICS,
    RANKED,
    SHARES,
    SMALLEST,
    TELLING,
    Baseline,
    Metric,
    Reply,
)
from worker.errors import InvalidInput

#: No alarm before so many: calls that come together may have more in common than the arithmetic
#: knows.
_FIRST_CALLS = 20
_CALLS_OF_A_USER, _FEW_USERS = 5, 20
#: Users that are told from each other; those that come later count in full.
_MOST_USERS = 2000
#: Without a baseline: the share that is too much.
_ABSOLUTE = 0.2
#: The control became worse, too, if chance explains it with so much at most.
_SHARED = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """How much worse a new version may be: shares in 0 to 1, factors, a probability a release."""

    validity: float = 0.05
    refusals: float = 0.05
    length: float = 1.5
    cost: float = 1.5
    false_alarms: float = 1e-4


def parse_limits(arguments: Sequence[str]) -> dict[str, float]:
    """Limits for one release, from `METRIC=NUMBER` each: points for shares, factors for the rest.

    Raises:
        InvalidInput: an argument is malformed.
    """
    limits: dict[str, float] = {}
    for argument in arguments:
        metric, _, number = argument.partition("=")
        if metric not in METRICS:
            raise InvalidInput(f"{argument!r} is none of {', '.join(f'{m}=…' for m in METRICS)}")
        least, most = (0.0, 100.0) if metric in SHARES else (1.0, 1e6)
        try:
            limits[metric] = float(number)
        except ValueError:
            limits[metric] = -1.0
        if not least < limits[metric] < most:
            kind = "points more" if metric in SHARES else "a factor"
            raise InvalidInput(f"{argument!r}: {kind}, between {least:g} and {most:g}")
    return limits


@dataclass(slots=True)
class Tally:
    """What was counted in one metric of one version: `total` of `calls`, and what a bet has won."""

    calls: int = 0
    total: int = 0
    stakes: list[float] = field(default_factory=sequential.opening)

    @property
    def mean(self) -> float:
        """What was counted of a call, on average."""
        return self.total / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """A version is worse than it may be; `shared`: the old one has become so as well, beside it."""

    version: str
    metric: Metric
    calls: int
    mean: float
    baseline_calls: int
    baseline_mean: float
    shared: bool


class Watch:
    """The bets on the new `versions` of a release; `progress` is all of it that changes."""

    def __init__(self, versions: Sequence[str], baseline: Baseline, limits: Limits) -> None:
        self.versions = versions
        self.baseline = baseline
        self.limits = limits
        # The probability of a false alarm by one bet, and by one bound that it rests on.
        self._error = limits.false_alarms / (max(len(versions), 1) * len(METRICS) * 2)
        self._bounds = {metric: self._bound(metric) for metric in self._metrics()}
        self._tallies: dict[str, dict[str, Tally]] = {}
        self._users: dict[str, dict[str, int]] = {}
        self._told: list[str] = []

    @property
    def calls(self) -> int:
        """First replies of the new versions that were counted."""
        return sum(self._tally(version, "validity").calls for version in self.versions)

    def observe(self, version: str, reply: Reply) -> None:
        """Take in a first reply to a job that the watched release assigned."""
        if version not in self.versions and version != self.baseline.version:
            return
        if reply.outcome not in TELLING or not self._counts(version, reply.user):
            return
        for metric, bound in self._bounds.items():
            counted = reply.counted(metric)
            if counted is not None:
                tally = self._tally(version, metric)
                tally.calls += 1
                tally.total += counted
                scored = self._scored(metric, counted)
                tally.stakes = sequential.wager(tally.stakes, scored, bound)

    def alarms(self) -> list[Alarm]:
        """What is to be told now, each once; to be asked as often as one likes."""
        found = []
        for version in self.versions:
            for metric in self._bounds:
                name, tally = f"{version} {metric}", self._tally(version, metric)
                if name not in self._told and self._is_certain(tally):
                    self._told.append(name)
                    found.append(self._alarm(version, metric, tally))
        return found

    def progress(self) -> dict[str, Any]:
        """What changes, as JSON."""
        tallies = {
            version: {metric: asdict(tally) for metric, tally in of_version.items()}
            for version, of_version in self._tallies.items()
        }
        return {"tallies": tallies, "users": self._users, "told": self._told}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Go on from what `progress` said."""
        self._tallies = {
            version: {metric: Tally(**tally) for metric, tally in of_version.items()}
            for version, of_version in progress.get("tallies", {}).items()
        }
        self._users = progress.get("users", {})
        self._told = progress.get("told", [])

    def _metrics(self) -> Iterator[Metric]:
        for metric in METRICS:
            is_enough = self.baseline.sample(metric)[0] >= SMALLEST
            if metric in SHARES or is_enough:
                yield metric

    def _bound(self, metric: Metric) -> float:
        size, total = self.baseline.sample(metric)
        if metric in RANKED:
            return sequential.score_bound(size, self._error)
        if size < SMALLEST:
            return _ABSOLUTE
        allowed = self.limits.validity if metric == "validity" else self.limits.refusals
        return sequential.share_bound(total, size, self._error) + allowed

    def _scored(self, metric: Metric, counted: int) -> float:
        match metric:
            case "length":
                return sequential.score(counted / self.limits.length, self.baseline.lengths)
            case "cost":
                return sequential.score(counted / self.limits.cost, self.baseline.costs)
        return counted

    def _is_certain(self, tally: Tally) -> bool:
        if tally.calls < _FIRST_CALLS:
            return False
        return sequential.evidence(tally.stakes) >= 1 / self._error

    def _alarm(self, version: str, metric: Metric, tally: Tally) -> Alarm:
        size, total = self.baseline.sample(metric)
        shared = False
        old = self.baseline.version
        if old is not None and old not in self.versions and size >= SMALLEST:
            control = self._tally(old, metric)
            shared = sequential.evidence(control.stakes) >= 1 / _SHARED
        before = total / size if size else 0.0
        return Alarm(version, metric, tally.calls, tally.mean, size, before, shared)

    def _tally(self, version: str, metric: Metric) -> Tally:
        return self._tallies.setdefault(version, {}).setdefault(metric, Tally())

    def _counts(self, version: str, user: int | None) -> bool:
        """Whether this user's calls have not been counted often enough yet."""
        if user is None or self.baseline.users < _FEW_USERS:
            return True
        seen = self._users.setdefault(version, {})
        name = format(user, "x")
        if name not in seen and len(seen) >= _MOST_USERS:
            return True
        seen[name] = seen.get(name, 0) + 1
        return seen[name] <= _CALLS_OF_A_USER
