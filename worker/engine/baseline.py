"""First replies of a prompt version: what is counted of them, and the old one's as a yardstick."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

#: Replies that a baseline holds at most, and what it must hold to be one.
LARGEST, SMALLEST = 1000, 50

#: Outcomes of a first call that say something about the prompt; the rest is the network's, or ours.
#: `rejected`: no reply, as the API found fault with the request itself.
TELLING = ("ok", "invalid_output", "truncated", "refused", "rejected")
_UNANSWERED = ("refused", "rejected")

Metric = Literal["validity", "refusals", "length", "cost"]
SHARES: tuple[Metric, ...] = ("validity", "refusals")
RANKED: tuple[Metric, ...] = ("length", "cost")
METRICS = SHARES + RANKED


@dataclass(frozen=True, slots=True)
class Reply:
    """What is counted of a first call; `cost` in 1e-8 dollars, None where there is no price."""

    outcome: str
    tokens: int
    cost: int | None = None
    user: int | None = None

    def counted(self, metric: Metric) -> int | None:
        """The number that goes into a metric; None if this reply says nothing about it."""
        match metric:
            case "validity":
                return int(self.outcome != "ok")
            case "refusals":
                return int(self.outcome in ("refused", "truncated"))
            case "length":
                return None if self.outcome in _UNANSWERED else self.tokens
            case "cost":
                return None if self.outcome in _UNANSWERED else self.cost


@dataclass(frozen=True, slots=True)
class Baseline:
    """The old version's last replies; `lengths` and `costs` are sorted."""

    version: str | None = None
    calls: int = 0
    invalid: int = 0
    refused: int = 0
    users: int = 0
    lengths: Sequence[int] = ()
    costs: Sequence[int] = ()

    @classmethod
    def of(cls, version: str, replies: Iterable[Reply]) -> Baseline:
        """From replies of `version`."""
        told = list(replies)
        users = {reply.user for reply in told if reply.user is not None}
        return cls(
            version=version,
            calls=len(told),
            invalid=sum(reply.counted("validity") or 0 for reply in told),
            refused=sum(reply.counted("refusals") or 0 for reply in told),
            users=len(users) + sum(reply.user is None for reply in told),
            lengths=sorted(n for r in told if (n := r.counted("length")) is not None),
            costs=sorted(n for r in told if (n := r.counted("cost")) is not None),
        )

    @property
    def is_enough(self) -> bool:
        """Whether there is something to compare with."""
        return self.calls >= SMALLEST

    def sample(self, metric: Metric) -> tuple[int, int]:
        """How many replies there are for a metric, and the sum of what was counted of them."""
        match metric:
            case "validity":
                return self.calls, self.invalid
            case "refusals":
                return self.calls, self.refused
            case "length":
                return len(self.lengths), sum(self.lengths)
            case "cost":
                return len(self.costs), sum(self.costs)
