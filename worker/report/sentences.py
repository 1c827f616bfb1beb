"""What explains a change, said in sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from operator import attrgetter

from worker.html import shorten
from worker.report.amounts import percent
from worker.report.change import Cause, Kind
from worker.report.period import Period
from worker.report.perjob import PerJob

#: A second reason is worth words if it is this part of the whole.
_WORTH_WORDS = Fraction(1, 4)
_MOST_REASON = 120


@dataclass(frozen=True, slots=True)
class Release:
    """A row of `prompt_releases`, with the weights of the release before it."""

    prompt: str
    kind: str
    weights: Mapping[str, float]
    weights_before: Mapping[str, float]
    released_by: str
    reason: str
    created_at: datetime

    def favours(self, prompt: str, version: str) -> bool:
        """Whether it gave a version more of the traffic."""
        then = self.weights_before.get(version, 0)
        return self.prompt == prompt and self.weights.get(version, 0) > then


@dataclass(frozen=True, slots=True)
class Busiest:
    """The user whose number of jobs of a task changed most, and by how much."""

    user_id: str
    more: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """A part of the change, rounded, and what explains it. `release` is the one it belongs to."""

    usd: Decimal
    subject: str
    text: str
    release: Release | None = None

    @property
    def sentence(self) -> str:
        """The whole of it, without the amount."""
        return f"{self.subject}{self.text}."


def explain_cause(
    cause: Cause,
    usd: Decimal,
    period: Period,
    releases: Sequence[Release],
    busiest: Mapping[str, Busiest],
) -> Explanation:
    """The sentence for a cause; `usd` is what it adds, as shown."""
    if cause.group is None:
        if "volume" in cause.effects:
            return Explanation(usd, *_volume(cause, busiest.get(cause.task)))
        text = ": attempts that went on with another version of its prompt"
        return Explanation(usd, shorten(cause.task), text)
    task, prompt, version = cause.group
    subject = f"{shorten(prompt)}/{shorten(version)}"
    if task != prompt:
        subject = f"{shorten(task)}, {subject}"
    # What a release changed shows in versions that got more of the traffic, and in no others.
    grew = cause.share > cause.share_before
    newest = (each for each in reversed(releases) if grew and each.favours(prompt, version))
    release = next(newest, None)
    told = f", {_released(release, version, period)}," if release else ""
    return Explanation(usd, subject, f"{told} {_reasons(cause)}", release)


def _released(release: Release, version: str, period: Period) -> str:
    verb = {
        "release": "released",
        "rollback": "brought back",
        "automatic_rollback": "brought back automatically",
    }.get(release.kind, release.kind)
    at = release.created_at
    inside = period.since <= at < period.until
    day = f"{at:%A}" if inside else f"{at.day} {at:%B}"
    weight = release.weights[version]
    to_some = f" to {weight:g} % of the users" if weight < 100 else ""
    reason = shorten(release.reason.strip(), _MOST_REASON)
    why = f" (“{reason}”)" if reason else ""
    return f"{verb}{to_some} on {day} by {shorten(release.released_by)}{why}"


def _volume(cause: Cause, busiest: Busiest | None) -> tuple[str, str]:
    task, now, before = shorten(cause.task), cause.jobs, cause.jobs_before
    if not before:
        return task, f" is new: {now:,} jobs"
    if not now:
        return task, f" had no jobs, {before:,} the week before"
    more = now - before
    word = "more" if more > 0 else "fewer"
    if now >= 2 * before:
        amount = f"{now / before:.1f} times as many jobs"
    else:
        amount = f"{percent(abs(more) / before)} {word} jobs"
    text = f": {amount} ({now:,}, {before:,} the week before)"
    if busiest is not None and busiest.more * more > 0 and abs(busiest.more) * 2 >= abs(more):
        text += f", {shorten(busiest.user_id)} alone {abs(busiest.more):,} {word}"
    return task, text


def _reasons(cause: Cause) -> str:
    up = cause.usd > 0
    along = {kind: usd for kind, usd in cause.effects.items() if (usd > 0) == up and usd}
    against = {kind: usd for kind, usd in cause.effects.items() if (usd > 0) != up and usd}
    ordered = sorted(along, key=lambda kind: -abs(along[kind]))
    texts = [_WORDS[ordered[0]](cause)]
    if len(ordered) > 1 and abs(along[ordered[1]]) >= _WORTH_WORDS * abs(cause.usd):
        texts.append(_WORDS[ordered[1]](cause))
    text = ", and ".join(texts)
    if against:
        opposed = max(against, key=lambda kind: abs(against[kind]))
        if abs(against[opposed]) >= _WORTH_WORDS * abs(cause.usd):
            text += f"; against that, it {_WORDS[opposed](cause)}"
    return text


def _times(now: Fraction, then: Fraction, what: str) -> str:
    """`1.9 times as many output tokens`, `12 % fewer output tokens`."""
    factor = float(now / then)
    if factor >= 1.5:
        return f"{factor:.1f} times as many {what}"
    return f"{percent(abs(factor - 1))} {'more' if factor > 1 else 'fewer'} {what}"


def _then(cause: Cause) -> str:
    """What the numbers of `then` belong to."""
    return "the week before" if cause.share_before else f"with {shorten(str(cause.instead_of))}"


def _output(cause: Cause) -> str:
    now, then = (s.output_tokens / s.replies for s in (cause.now, cause.then))
    return f"writes {_times(now, then, 'output tokens')} ({_beside(cause, now, then)})"


def _input(cause: Cause) -> str:
    now, then = (s.input_tokens / s.replies for s in (cause.now, cause.then))
    return f"reads {_times(now, then, 'input tokens')} ({_beside(cause, now, then)})"


def _beside(cause: Cause, now: Fraction, then: Fraction) -> str:
    return f"{round(now):,} a reply, {round(then):,} {_then(cause)}"


def _calls(cause: Cause) -> str:
    now, then = (float(s.replies / s.asked) for s in (cause.now, cause.then))
    return f"takes {now:.2f} replies a job, {then:.2f} {_then(cause)}, with repairs and retries"


def _price(cause: Cause) -> str:
    now, then = (
        float((s.output_value + s.input_value) / (s.output_tokens + s.input_tokens))
        for s in (cause.now, cause.then)
    )
    change = (
        f"{now / then:.1f} times as much"
        if now >= 1.5 * then
        else (f"{percent(abs(now / then - 1))} {'more' if now > then else 'less'}")
    )
    asked = ""
    if cause.model != cause.model_before:
        asked = f", as it asks {shorten(cause.model)} instead of {shorten(cause.model_before)}"
    return f"pays {change} for a token{asked}"


def _prompt_cache(cause: Cause) -> str:
    now, then = (float(side.saved_by_prompt_cache) for side in (cause.now, cause.then))
    verbs = ["lost" if usd < 0 else "saved" for usd in (now, then)]
    first = f"{verbs[0]} ${abs(now):.4f} a job by the prompt cache"
    again = "" if verbs[0] == verbs[1] else f"{verbs[1]} "
    return f"{first}, {again}${abs(then):.4f} {_then(cause)}"


def _saved(what: str, share: Callable[[PerJob], Fraction]) -> Callable[[Cause], str]:
    def words(cause: Cause) -> str:
        now, then = (float(share(side)) for side in (cause.now, cause.then))
        return f"saved {percent(now)} of its price by {what}, {percent(then)} {_then(cause)}"

    return words


def _mix(cause: Cause) -> str:
    served = (
        f"served {percent(float(cause.share))} of the jobs, "
        f"{percent(float(cause.share_before))} the week before,"
    )
    return f"{served} instead of {shorten(str(cause.instead_of))}, at another price a job"


def _other(cause: Cause) -> str:
    now, then = (float(side.cost) for side in (cause.now, cause.then))
    return f"costs ${now:.4f} a job, ${then:.4f} {_then(cause)}"


_WORDS: dict[Kind, Callable[[Cause], str]] = {
    "output": _output,
    "input": _input,
    "calls": _calls,
    "price": _price,
    "prompt_cache": _prompt_cache,
    "batch": _saved("batches", attrgetter("batch_share")),
    "cache": _saved("the result cache", attrgetter("cache_share")),
    "coalescing": _saved("coalescing", attrgetter("coalescing_share")),
    "mix": _mix,
    "other": _other,
}

#: What each kind of effect is called where they are listed.
KIND_NAMES: dict[Kind, str] = {
    "volume": "Number of jobs",
    "mix": "Which versions served",
    "calls": "Repairs and retries",
    "output": "Length of replies",
    "input": "Length of inputs",
    "price": "Models and prices",
    "prompt_cache": "Prompt cache",
    "batch": "Batches",
    "cache": "Result cache",
    "coalescing": "Coalescing",
    "other": "Everything else",
}
