"""Whether a prompt version's replies have become longer or shorter than they used to be.

Pure arithmetic on the output tokens of one prompt version, in the order of its calls:

- The first calls are the *reference* (at least 200 before anything is compared, at most 500). It
  is not moved along, so that a slow drift is found as well as a jump.
- The last 320 calls are *recent*. Every 20 calls, the newest 20, 40, 80, 160 and 320 of them are
  each compared with the reference: a big change shows in few calls, a small one needs many.
- A comparison is a shift if both of these hold:
  1. At least two of the three quartiles have moved by half or more, the same way: to 1.5 times
     what they were or more, or to 0.5 times or less. One quartile alone may sit in a gap between
     short and long replies, and jump from one side to the other for no reason.
  2. Chance does not explain it: |z| ≥ 5 in the rank-sum test. [Mann & Whitney, "On a Test of
     Whether one of Two Random Variables is Stochastically Larger than the Other", Annals of
     Mathematical Statistics 18, 1947]
  3. Nor do chance and a change half as big: |z| ≥ 3 against 1.25 or 0.75 times the reference.
     Else a change by a quarter would be told as one by half, once twenty calls happen to say so.

Why false alarms stay below one in 10,000 steady calls, whatever the lengths look like and however
often one looks: ranks know no distribution, so a single comparison of steady calls passes the
second condition with probability 6e-7 at most, ties make it smaller, and expectations add up
however much the comparisons depend on each other. Five comparisons every 20 calls make less than
0.0015 expected alarms in 10,000 calls.

In a simulation of 1e9 steady calls (10,000 runs of 10,000 calls each for ten distributions:
lognormal with σ from 0.3 to 1.2, gamma, bimodal, Pareto, nearly constant, 1 to 3 tokens) 12 runs
raised an alarm: one in 83 million calls. `tests/unit/engine/test_drift.py` repeats it on a small
scale, and says how soon a shift is found.

After a shift the history is forgotten and learned anew: one shift is one alert.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Calls before anything is compared, and the most that the reference holds.
LEARNING, REFERENCE = 200, 500
#: How many of the newest calls are compared, each a multiple of `_EVERY`.
_SPANS = (20, 40, 80, 160, 320)
RECENT = _SPANS[-1]
_EVERY = _SPANS[0]

#: What "by half or more" means, up and down; and half of that.
UP, DOWN = 1.5, 0.5
_HALFWAY_UP, _HALFWAY_DOWN = 1.25, 0.75
#: Standard deviations that make a change, and that make it more than half as big.
_CERTAIN, _CONFIRMED = 5.0, 3.0

Quartiles = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Shift:
    """A change of length: quartiles in tokens, and the number of calls that show it."""

    before: Quartiles
    after: Quartiles
    calls: int

    @property
    def factor(self) -> float:
        """How much longer replies have become; below 1 they are shorter."""
        return _factor(self.before, self.after)


@dataclass(slots=True)
class History:
    """What is remembered of a prompt version: two short lists of output tokens.

    `reference` is sorted, `recent` has the oldest first, `calls` counts since learning began.
    """

    reference: list[int] = field(default_factory=list)
    recent: list[int] = field(default_factory=list)
    calls: int = 0

    def observe(self, tokens: int) -> Shift | None:
        """Take in one more call; a shift is returned once, and learning begins anew."""
        self.calls += 1
        if len(self.reference) < LEARNING:
            insort(self.reference, tokens)
            return None
        self.recent.append(tokens)
        if len(self.recent) > RECENT:
            oldest = self.recent.pop(0)
            if len(self.reference) < REFERENCE:
                insort(self.reference, oldest)
        shift = self._compared() if self.calls % _EVERY == 0 else None
        if shift is not None:
            self.reference, self.recent, self.calls = [], [], 0
        return shift

    def _compared(self) -> Shift | None:
        """The first span that differs from the reference, the shortest being tried first."""
        reference = self.reference
        pairs = seen = 0
        for span in _SPANS:
            if span > len(self.recent):
                return None
            # Each call is ranked once, whatever the number of spans that it belongs to.
            pairs += _longer(
                self.recent[len(self.recent) - span : len(self.recent) - seen], reference
            )
            seen = span
            z = _deviations(pairs, len(reference), span)
            if abs(z) < _CERTAIN:
                continue
            recent = sorted(self.recent[-span:])
            shift = Shift(_quartiles(reference), _quartiles(recent), span)
            halfway = _HALFWAY_UP if z > 0 else _HALFWAY_DOWN
            longer = _longer(recent, [halfway * tokens for tokens in reference])
            confirmed = _deviations(longer, len(reference), span)
            if z > 0 and shift.factor >= UP and confirmed >= _CONFIRMED:
                return shift
            if z < 0 and shift.factor <= DOWN and confirmed <= -_CONFIRMED:
                return shift
        return None


def _longer(calls: Sequence[int], reference: Sequence[float]) -> int:
    """Twice the pairs of a call and one of the sorted reference in which the call is longer.

    A tie is half a pair: twice the statistic U.
    """
    return sum(bisect_left(reference, call) + bisect_right(reference, call) for call in calls)


def _deviations(pairs: int, size: int, span: int) -> float:
    """The z of a rank sum; without the correction for ties, which would make it larger."""
    deviation = math.sqrt(size * span * (size + span + 1) / 12)
    return (pairs - size * span) / 2 / deviation


def _quartiles(ordered: Sequence[int]) -> Quartiles:
    size = len(ordered)
    return ordered[size // 4], ordered[size // 2], ordered[3 * size // 4]


def _factor(before: Quartiles, after: Quartiles) -> float:
    """The middle one of the three quartiles' ratios: at least one other lies beyond it."""
    ratios = sorted(new / max(old, 1) for old, new in zip(before, after, strict=True))
    return ratios[1]
