"""Who gets which version: a prompt's traffic as a line of 10,000 points, cut into segments.

Each user stands at one point of each prompt's line, always the same. When weights change, versions
that shrink give up points and versions that grow take just those: nobody else is moved, and an
allocation that is restored gives everybody back the version they had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from typing import Any, NamedTuple

from worker.errors import InvalidInput

#: A share is known to a hundredth of a percent.
POINTS = 10_000


class Segment(NamedTuple):
    """The points from `start` up to, but not including, `end`."""

    version: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """Segments that cover the line without a gap, in order."""

    segments: tuple[Segment, ...]

    def __str__(self) -> str:
        """Such as `1.1 90 %, 1.2 10 %`."""
        shares = self.shares().items()
        return ", ".join(f"{version} {percent_of(points)} %" for version, points in shares)

    @classmethod
    def all_to(cls, version: str) -> Allocation:
        """Everybody gets `version`."""
        return cls((Segment(version, 0, POINTS),))

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any]]) -> Allocation:
        """The allocation that was stored as rows of version, start and end."""
        return cls(tuple(Segment(*row) for row in rows))

    def version_at(self, point: int) -> str:
        """The version of the user who stands at `point`."""
        return next(segment.version for segment in self.segments if point < segment.end)

    def shares(self) -> dict[str, int]:
        """How many points each version has."""
        found: Counter[str] = Counter()
        for version, start, end in self.segments:
            found[version] += end - start
        return dict(found)

    def changed_to(self, shares: Mapping[str, int]) -> Allocation:
        """The allocation with these `shares` (together 10,000) that moves the fewest points."""
        wanted = Counter(shares)
        kept: list[Segment] = []
        free: list[tuple[int, int]] = []
        for version, start, end in self.segments:
            cut = start + min(end - start, wanted[version])
            wanted[version] -= cut - start
            kept.append(Segment(version, start, cut))
            free.append((cut, end))
        for start, end in free:
            at = start
            while at < end:
                version = next(name for name in shares if wanted[name] > 0)
                cut = at + min(end - at, wanted[version])
                wanted[version] -= cut - at
                kept.append(Segment(version, at, cut))
                at = cut
        return Allocation(tuple(_joined(sorted(kept, key=lambda segment: segment.start))))


def _joined(segments: Iterable[Segment]) -> list[Segment]:
    """Neighbours of one version as one segment, empty ones left out."""
    joined: list[Segment] = []
    for segment in segments:
        if segment.start == segment.end:
            continue
        if joined and joined[-1].version == segment.version:
            joined[-1] = joined[-1]._replace(end=segment.end)
        else:
            joined.append(segment)
    return joined


def point_of(prompt: str, who: str) -> int:
    """Where a user – or a job of no user – stands on the line of `prompt`.

    A hash of both: whoever tries the new version of one prompt is not the guinea pig of all.
    """
    digest = sha256(f"{prompt}\0{who}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % POINTS


def parse_weights(arguments: Sequence[str]) -> dict[str, int]:
    """Points by version, from `VERSION=PERCENT` each; one version alone gets everything.

    Raises:
        InvalidInput: an argument is malformed, or the percentages do not add up to 100.
    """
    if len(arguments) == 1 and "=" not in arguments[0]:
        return {arguments[0]: POINTS}
    shares: dict[str, int] = {}
    for argument in arguments:
        version, equals, percent = argument.partition("=")
        if not equals:
            raise InvalidInput(f"{version} has no share: write {version}=PERCENT, as in 1.1=90")
        if version in shares:
            raise InvalidInput(f"{version} is named twice")
        shares[version] = _points(version, percent)
    if (total := sum(shares.values())) != POINTS:
        raise InvalidInput(f"the shares add up to {percent_of(total)} %, not to 100 %")
    return {version: points for version, points in shares.items() if points}


def percent_of(points: int) -> str:
    """Points as a percentage, without superfluous zeros."""
    return f"{points / POINTS * 100:.2f}".rstrip("0").rstrip(".")


def _points(version: str, percent: str) -> int:
    try:
        points = Decimal(percent) * (POINTS // 100)
    except InvalidOperation:
        points = Decimal("NaN")
    if not points.is_finite() or points != int(points) or not 0 <= points <= POINTS:
        raise InvalidInput(
            f"{version}={percent}: a share is a percentage from 0 to 100, to two places at most"
        )
    return int(points)
