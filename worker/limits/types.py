"""What the limiter is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

#: Why Claude refused a request: a rate limit, its limit on growth, or a 529.
RejectionKind = Literal["rate_limited", "ramp", "overloaded"]


class Buckets(NamedTuple):
    """A number for each of the three buckets of a model class; None where there is none."""

    requests: float | None = None
    input: float | None = None
    output: float | None = None


#: The part of a bucket that is left alone, for jitter on the way and errors of estimates; as in
#: buckets.lua.
FLOOR = 0.05

#: No number for any bucket.
NOTHING = Buckets()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request takes from the buckets, besides being one request.

    `input` is `input_tokens` + cache writes (cache reads are free), `output` what is generated –
    not `max_tokens`. Both are expected values before the call, facts after it.
    """

    input: float
    output: float


@dataclass(frozen=True, slots=True)
class LocalTicket:
    """A place in this process's own queue, while Redis is away."""

    epoch: int
    debits: Buckets
    places: Buckets


@dataclass(slots=True, eq=False)
class Reservation:
    """One request's place in the queue; only the limiter looks inside.

    It has to be ended: `settle`, `failed`, `rejected` or `release`. Ending it again does nothing.
    A `ticket` that is empty stands for a request that waits for room in this process.
    """

    model_class: str
    cost: Cost
    max_wait: float
    ticket: bytes | LocalTicket = b""
    state: Literal["waiting", "sent", "ended"] = "waiting"
    sent_at: float = 0.0
    parked: bool = False


class Verdict(NamedTuple):
    """What the buckets say: `unknown` means that nobody has heard of the limits yet.

    `closed_for` are the seconds of the wait that a 429 asked for.
    """

    status: Literal["unknown", "refused", "admitted"]
    wait: float
    ticket: bytes | LocalTicket = b""
    closed_for: float = 0.0


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to `admit`.

    With a `reservation`: wait `wait` seconds, and if that is not 0, `confirm` before sending – and
    every five seconds of a longer wait: if limits are raised, its turn comes earlier.
    Without: there is no room within `max_wait`; come back in `wait` seconds.
    """

    wait: float
    reservation: Reservation | None = None


@dataclass(frozen=True, slots=True)
class ClassState:
    """A model class as the limiter sees it.

    `limits` are what may be used a minute at a `ramp` of 1, `levels` what is left now (negative:
    promised to requests that wait), `averages` what a request costs. `known` is False until a
    first response has told whether there are limits at all. `shared` is False while Redis is away:
    the numbers are then this process's part.
    """

    model_class: str
    known: bool = False
    limits: Buckets = NOTHING
    levels: Buckets = NOTHING
    averages: Buckets = NOTHING
    closed_for: float = 0.0
    ramp: float = 1.0
    shared: bool = True
