"""What a release replaces: its new versions, and the old one that they are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.engine.allocation import POINTS, Allocation
from worker.engine.baseline import METRICS, SHARES, Baseline, Reply
from worker.storage.releases import Release
from worker.storage.watches import RecentReplies


def changed(
    release: Release, before: Release | None, recent: Sequence[RecentReplies]
) -> tuple[dict[str, str], tuple[str, str] | None]:
    """The versions whose share grew, with their hashes; and the one that lost the most."""
    if before is not None:
        had = _shares(before)
    elif recent:
        # Without a release, the version that replied last served everybody.
        had = {(recent[0].version, recent[0].sha256): POINTS}
    else:
        had = {}
    has = _shares(release)
    grown = {v: sha for (v, sha), points in has.items() if points > had.get((v, sha), 0)}
    lost = {each: points - has.get(each, 0) for each, points in had.items()}
    old = max(lost, key=lambda each: lost[each], default=None)
    return grown, old if old is not None and lost[old] > 0 else None


def _shares(release: Release) -> dict[tuple[str, str], int]:
    shares = Allocation.from_rows(release.allocation).shares()
    return {(version, release.sha256[version]): points for version, points in shares.items()}


def baseline_of(old: tuple[str, str] | None, recent: Sequence[RecentReplies]) -> Baseline:
    """The last replies of the old version, as far as they are known."""
    if old is None:
        return Baseline()
    for kept in recent:
        if (kept.version, kept.sha256) == old:
            columns = zip(kept.outcomes, kept.tokens, kept.costs, kept.users, strict=True)
            return Baseline.of(kept.version, [Reply(*row) for row in columns])
    return Baseline(version=old[0])


def agreed(release: Release) -> Mapping[str, Any]:
    """Limits that were agreed on for this release, e.g. because its model is a dearer one."""
    limits = release.evidence.get("watch")
    if not isinstance(limits, dict):
        return {}
    return {
        name: value / 100 if name in SHARES else float(value)
        for name, value in limits.items()
        if name in METRICS and isinstance(value, int | float) and value > 0
    }
