"""The account behind the key: what it may use, by model class, and what it has used."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from sandbox.claude.buckets import Buckets, unlimited_headers
from sandbox.claude.config import EVERY_CLASS, Config, model_class
from sandbox.claude.errors import ApiError
from sandbox.claude.ramp import RampGuard

UNLIMITED_HEADERS = unlimited_headers()
NO_HEADERS: Mapping[str, str] = {}


@dataclass(slots=True)
class Used:
    """What one model class has used since the start, or since the last reset."""

    admitted: int = 0
    rejected: int = 0
    overloaded: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class _Class:
    """One model class: its buckets if it has limits, its ramp guard if there is one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.used = Used()
        self.buckets: Buckets | None = None
        self.ramp: RampGuard | None = None


class Account:
    """Admits requests as long as the account's limits allow it."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._config = config
        self._classes: dict[str, _Class] = {}
        self._by_model: dict[str, _Class] = {}

    def configure(self, config: Config) -> None:
        """Take over new limits. What was used of the old ones stays used."""
        before, self._config = self._config, config
        if (config.limits, config.burst_seconds) != (before.limits, before.burst_seconds):
            for class_ in self._classes.values():
                old, class_.buckets = class_.buckets, self._buckets(class_.name)
                if old is not None and class_.buckets is not None:
                    class_.buckets.keep_level_of(old, self._clock())
        if config.ramp != before.ramp:
            for class_ in self._classes.values():
                class_.ramp = RampGuard(config.ramp) if config.ramp else None

    def reset(self) -> None:
        """Full buckets, and nothing used."""
        self._classes.clear()
        self._by_model.clear()

    def admit(self, model: str, input_tokens: int) -> None:
        """Debit a request and its billable input. Raises a 429 if there is no room for them."""
        class_ = self._class(model)
        used = class_.used
        if class_.buckets is not None or class_.ramp is not None:
            try:
                self._check(class_, model, input_tokens)
            except ApiError:
                used.rejected += 1
                raise
        used.admitted += 1
        used.input_tokens += input_tokens

    def give_back(self, model: str, input_tokens: int) -> None:
        """Undo the debit of an input that was not processed after all."""
        class_ = self._class(model)
        class_.used.input_tokens -= input_tokens
        if class_.buckets is not None:
            class_.buckets.input.give_back(input_tokens)

    def generated(self, model: str, output_tokens: int) -> None:
        """Debit what was generated, even if there was less left."""
        class_ = self._class(model)
        class_.used.output_tokens += output_tokens
        if class_.buckets is not None:
            class_.buckets.output.refill(self._clock())
            class_.buckets.output.level -= output_tokens

    def overloaded(self, model: str) -> None:
        """Count a request that was turned away with a 529."""
        self._class(model).used.overloaded += 1

    def headers(self, model: str) -> Mapping[str, str]:
        """The rate-limit headers of a response for `model`; none if that is not a known one."""
        if self._config.limits is None:
            return UNLIMITED_HEADERS
        if not model:
            return NO_HEADERS
        buckets = self._class(model).buckets
        return UNLIMITED_HEADERS if buckets is None else buckets.headers(self._clock(), time.time())

    def stats(self) -> dict[str, dict[str, int]]:
        """What each class has used."""
        return {name: asdict(class_.used) for name, class_ in self._classes.items()}

    def _check(self, class_: _Class, model: str, input_tokens: int) -> None:
        now = self._clock()
        if class_.buckets is not None:
            class_.buckets.refill(now)
            shortage = class_.buckets.shortage(input_tokens)
            if shortage is not None:
                raise _exceeded(model, *shortage)
        if class_.ramp is not None:
            wait = class_.ramp.wait(now)
            if wait is not None:
                raise _too_steep(wait)
            class_.ramp.note(now)
        if class_.buckets is not None:
            class_.buckets.debit(input_tokens)

    def _class(self, model: str) -> _Class:
        class_ = self._by_model.get(model)
        if class_ is None:
            name = model_class(model)
            class_ = self._classes.get(name) or _Class(name)
            if name not in self._classes:
                class_.buckets = self._buckets(name)
                class_.ramp = RampGuard(self._config.ramp) if self._config.ramp else None
                self._classes[name] = class_
            self._by_model[model] = class_
        return class_

    def _buckets(self, name: str) -> Buckets | None:
        limits = self._config.limits or {}
        chosen = limits.get(name) or limits.get(EVERY_CLASS)
        return Buckets(chosen, self._config.burst_seconds, self._clock()) if chosen else None


def spend_limit_reached() -> ApiError:
    """The 400 of an account that has spent what it may in this month."""
    now = datetime.datetime.now(datetime.UTC)
    again = (now.replace(day=1) + datetime.timedelta(days=32)).replace(day=1)
    return ApiError(
        400,
        "You have reached your specified API usage limits. "
        f"You will regain access on {again.date()} at 00:00 UTC.",
    )


def _exceeded(model: str, name: str, limit: int, seconds: float) -> ApiError:
    return ApiError(
        429,
        f"This request would exceed your organization's rate limit of {limit:,} "
        f"{name.replace('-', ' ')} per minute (model: {model}). For details, refer to: "
        "https://docs.claude.com/en/api/rate-limits. You can see the response headers for current "
        "usage. Please reduce the prompt length or the maximum tokens requested, or try again "
        "later.",
        headers={"retry-after": str(max(1, math.ceil(seconds)))},
    )


def _too_steep(seconds: int) -> ApiError:
    return ApiError(
        429,
        "This request would exceed your organization's maximum usage increase rate for requests. "
        "Please scale up your usage more gradually to stay within the acceleration limit.",
        error_code="ramp_limit_exceeded",
        headers={"retry-after": str(seconds)},
    )
