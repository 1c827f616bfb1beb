"""The gate before every call: requests go out at the rate that Claude allows the whole fleet."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

from worker.claude.failures import CallFailed, aborted
from worker.claude.inflight import CallControl
from worker.claude.reply import Reply, Tokens
from worker.claude.request import Request
from worker.errors import Failure
from worker.limits.classes import model_class
from worker.limits.estimates import Estimates
from worker.limits.limiter import Limiter
from worker.limits.types import Cost, RejectionKind, Reservation

#: How long a job waits for its turn in its slot, in seconds; beyond that it gives the slot back.
LONGEST_WAIT = 5.0
#: The same for a repair or another follow-up: what was paid for so far would be lost.
LONGEST_FOLLOW_UP_WAIT = 60.0
#: The relay sends no more jobs than the limits admit within so many seconds. Shorter than the
#: wait above, so that what is sent is run; longer than a look takes, so that no room is wasted.
HORIZON = 2.0

#: Who has waited in vain comes back in so many seconds at the earliest.
_LEAST_SNOOZE = 1.0

#: The `error_code` of a 429 that is about growth.
RAMP_LIMIT = "ramp_limit_exceeded"


class NotSent(Exception):
    """A request that was held back: it may be worth another try after `wait` seconds.

    `held`: its job is to wait for that however long it takes, and never to fail of it.
    """

    failure: Failure
    held: ClassVar[bool] = False

    def __init__(self, wait: float = 0.0, failure: Failure | None = None) -> None:
        if failure is not None:
            self.failure = failure
        super().__init__(f"{self.failure.summary}: wait {wait:.1f} s")
        self.wait = wait


class NoCapacity(NotSent):
    """The limits have no room for the request soon."""

    failure = Failure("no_capacity", "the rate limit is used up")


class Superseded(NotSent):
    """The request is not wanted any more."""

    failure = Failure("superseded", "another prompt version was released while the job waited")


class Gate:
    """Lets calls pass when the limits have room for them, and tells the limits what they used."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._estimates = Estimates()

    def call(
        self,
        request: Request,
        prompt: str,
        control: CallControl,
        make: Callable[[], Reply],
        *,
        longest_wait: float = LONGEST_WAIT,
        wanted: Callable[[], bool] = lambda: True,
        pay: Callable[[Cost], None] = lambda _: None,
    ) -> Reply:
        """The reply that `make` gets for `request`, once it may be sent.

        `prompt` is the prompt version, whose earlier calls tell what this one will cost; `wanted`
        is asked at the last moment, since the wait may have been long, and `pay` is called then,
        with the expected cost.

        Raises:
            NotSent: it may not be sent soon, was not wanted any more, or `pay` raised it.
            CallFailed: as `make` raises it, or because the call was ended while it waited.
        """
        expected = self.expected(request, prompt)
        reservation = self._enter(request.model, expected, control, longest_wait)
        try:
            if not wanted():
                raise Superseded
            pay(expected)
        except BaseException:
            self._limiter.release(reservation)
            raise
        try:
            reply = make()
        except CallFailed as failed:
            self._report(reservation, failed)
            raise
        except BaseException:
            self._limiter.settle(reservation, None, {})
            raise
        used = _cost(reply.tokens)
        self._limiter.settle(reservation, used, reply.headers)
        self._learn(request, prompt, used)
        return reply

    def expected(self, request: Request, prompt: str) -> Cost:
        """What a call of this prompt version will use, by what earlier ones did."""
        characters = request.prompt_characters()
        return self._estimates.estimate(_key(prompt, request), characters, request.max_tokens)

    def learn(self, request: Request, prompt: str, reply: Reply) -> None:
        """Take note of a call that did not pass here: one of a Message Batch."""
        self._learn(request, prompt, _cost(reply.tokens))

    def _learn(self, request: Request, prompt: str, used: Cost) -> None:
        self._estimates.learn(_key(prompt, request), request.prompt_characters(), used)

    def _enter(
        self, model: str, expected: Cost, control: CallControl, longest: float
    ) -> Reservation:
        answer = self._limiter.admit(model, expected, longest)
        if answer.reservation is None:
            raise NoCapacity(answer.wait)
        # A class that is closed in the meantime makes the wait longer than it was.
        give_up, wait = time.monotonic() + 2 * longest, answer.wait
        while wait > 0:
            if time.monotonic() + wait > give_up:
                self._limiter.release(answer.reservation)
                raise NoCapacity(max(wait, _LEAST_SNOOZE))
            if control.wait(min(wait, LONGEST_WAIT)):
                self._limiter.release(answer.reservation)
                assert control.reason is not None  # noqa: S101 – what ended the wait
                raise aborted(control.reason, 0)
            wait = self._limiter.confirm(answer.reservation)
        return answer.reservation

    def _report(self, reservation: Reservation, failed: CallFailed) -> None:
        facts = failed.facts
        if failed.outcome == "overloaded":
            self._limiter.rejected(reservation, facts.headers, "overloaded")
        elif facts.kind == "rate_limited":
            kind: RejectionKind = "ramp" if facts.code == RAMP_LIMIT else "rate_limited"
            self._limiter.rejected(reservation, facts.headers, kind)
        elif failed.partial is not None:
            self._limiter.settle(reservation, _cost(failed.partial.tokens), facts.headers)
        elif facts.headers:
            self._limiter.failed(reservation, facts.headers)
        else:
            self._limiter.settle(reservation, None, {})


def _key(prompt: str, request: Request) -> str:
    return f"{prompt} {request.model}"


def _cost(tokens: Tokens) -> Cost:
    """What the rate limits count: reads from the prompt cache are free."""
    return Cost(tokens.input + tokens.cache_write_5m + tokens.cache_write_1h, tokens.output)


def capacity_of(
    limiter: Limiter,
) -> Callable[[Collection[str]], Mapping[str, tuple[str, int | None]]]:
    """What a relay asks: for each model, its class and how many requests more that takes soon."""

    def capacity(models: Collection[str]) -> dict[str, tuple[str, int | None]]:
        rooms = limiter.capacity(models, HORIZON)
        classes = {model: model_class(model) for model in models}
        return {model: (name, rooms[name]) for model, name in classes.items()}

    return capacity
