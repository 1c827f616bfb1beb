"""How long replies are, beside `max_tokens` and beside what they were the week before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import RowMapping

#: A suggested `max_tokens` leaves so much room above the longest reply in a hundred.
_HEADROOM = 1.5
#: Fewer replies say little about the longest in a hundred.
_TELLING = 100
#: A limit is worth a word if it is so many times what would do, or if it cuts off this share.
_ROOMY, _TIGHT = 4, 0.005


@dataclass(frozen=True, slots=True)
class Lengths:
    """The output tokens of a prompt version's complete replies in a week; quantiles in tokens.

    `before` is the same of the week before, or of the version of the prompt that wrote most replies
    then, if this one wrote none. `limit` is its `max_tokens` where that is known.
    """

    prompt: str
    version: str
    replies: int
    p50: int
    p95: int
    p99: int
    longest: int
    truncated: float
    limit: int | None
    before: Lengths | None = None

    @property
    def name(self) -> str:
        """`prompt/version`."""
        return f"{self.prompt}/{self.version}"

    @property
    def drift(self) -> float | None:
        """The median over that of the week before."""
        return self.p50 / self.before.p50 if self.before is not None and self.before.p50 else None

    @property
    def suggested(self) -> int:
        """What `max_tokens` would do."""
        return suggested_max_tokens(self.p99)

    @property
    def advice(self) -> str | None:
        """What to do about `max_tokens`, if anything."""
        if self.limit is None or self.replies < _TELLING:
            return None
        if self.truncated >= _TIGHT and self.suggested > self.limit:
            return "raise"
        if self.limit >= _ROOMY * self.suggested:
            return "lower"
        return None


def suggested_max_tokens(p99: int) -> int:
    """Room for the longest reply in a hundred and half as much again, in round numbers."""
    return max(256, 256 * math.ceil(p99 * _HEADROOM / 256))


def read_lengths(
    now: Iterable[RowMapping],
    before: Iterable[RowMapping],
    limits: Mapping[tuple[str, str], int],
) -> list[Lengths]:
    """From rows of `worker.storage.usage.profile`, those of the most replies first."""
    earlier = sorted((_lengths(row, limits) for row in before), key=lambda each: each.replies)
    of_prompt = {each.prompt: each for each in earlier}
    of_version = {each.name: each for each in earlier}
    found = [
        replace(each, before=of_version.get(each.name, of_prompt.get(each.prompt)))
        for each in (_lengths(row, limits) for row in now)
    ]
    return sorted(found, key=lambda each: (-each.replies, each.name))


def _lengths(row: RowMapping, limits: Mapping[tuple[str, str], int]) -> Lengths:
    prompt, version = row["prompt"], row["prompt_version"]
    p50, p95, p99, longest = row["output"]
    return Lengths(
        prompt=prompt,
        version=version,
        replies=row["calls"],
        p50=p50,
        p95=p95,
        p99=p99,
        longest=longest,
        truncated=row["truncated"],
        limit=limits.get((prompt, version)),
    )
