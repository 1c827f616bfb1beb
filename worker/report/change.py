"""Why a week cost more or less than the one before: a decomposition whose parts add up exactly.

For each task, with jobs J, cost a job c (0: the week before, 1: this week) and the shares s of its
prompt versions among its jobs:

    C1 − C0  =  (J1 − J0) · c0                                         volume
              + J1 · Σ (growing versions) (s1 − s0) · (c0 − c̄)         mix
              + J1 · Σ (all versions) s1 · (c1 − c0)                   what a version's jobs cost

A version that grew took its share from those that shrank, whose mean cost a job (weighted by what
they lost) is c̄. A version that is new has no c0: c̄ stands in its place, and all its difference to
what it replaced is its own. That a sum over all versions is c1 − c0 follows from Σ s = 1 in both
weeks.

A version's difference J1 · s1 · (c1 − c0) is split further. A job has the full price f, of which
hits of the result cache and of coalescing save the shares h and k, the prompt cache the amount p,
and batches the share b of what is left:

    c = (f · (1 − h − k) − p) · (1 − b)

Each factor moves in turn, with those before it as they are now and those after it as they were.
What f adds is split by the price list into calls a job, output tokens a reply, input tokens a
reply, and the price of a token (another model); what the list does not explain stays as `other`.

All arithmetic is in fractions: nothing is lost to rounding, and nothing has to be made up for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, get_args

from worker.report.perjob import PerJob, UnitPrices, mean, per_job
from worker.storage.figures import Figures

Kind = Literal[
    "volume",
    "mix",
    "calls",
    "output",
    "input",
    "price",
    "prompt_cache",
    "batch",
    "cache",
    "coalescing",
    "other",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Task, prompt and version.
Group = tuple[str, str, str]
#: A group's figures by model.
Groups = Mapping[Group, Mapping[str, Figures]]

_ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class Cause:
    """A part of the change: a task's volume, or one version of its prompt.

    `group` is None for what belongs to the task alone. `now` is the version's week; `then` what it
    is compared with: itself the week before, or else what it replaced, with `instead_of` naming
    the version that lost most. `model` wrote most of its output; `model_before` that of `then`.
    """

    task: str
    group: Group | None
    effects: Mapping[Kind, Fraction]
    now: PerJob = field(default_factory=PerJob)
    then: PerJob = field(default_factory=PerJob)
    jobs: int = 0
    jobs_before: int = 0
    share: Fraction = _ZERO
    share_before: Fraction = _ZERO
    instead_of: str | None = None
    model: str = ""
    model_before: str = ""

    @property
    def usd(self) -> Fraction:
        """What it adds to the change."""
        return sum(self.effects.values(), _ZERO)


def explain(before: Groups, now: Groups, prices: UnitPrices) -> list[Cause]:
    """The causes of a change, the largest first; their `usd` add up to it exactly."""
    tasks = sorted({group[0] for group in (*before, *now)})
    causes = [
        cause
        for task in tasks
        for cause in _of_task(task, _Week.of(task, before, prices), _Week.of(task, now, prices))
    ]
    return sorted((each for each in causes if each.usd), key=lambda c: (-abs(c.usd), c.task))


def by_kind(causes: Iterable[Cause]) -> dict[Kind, Fraction]:
    """The same change by kind of effect; kinds without any are left out."""
    sums: dict[Kind, Fraction] = defaultdict(Fraction)
    for cause in causes:
        for kind, usd in cause.effects.items():
            sums[kind] += usd
    return {kind: sums[kind] for kind in KINDS if sums[kind]}


@dataclass(frozen=True, slots=True)
class _Week:
    """A task's week: its versions with jobs, and the cost of calls whose version began none.

    The latter are attempts that went on with another version after a release.
    """

    jobs: int
    versions: Mapping[Group, tuple[int, PerJob]]
    models: Mapping[Group, str]
    astray: Fraction

    @classmethod
    def of(cls, task: str, groups: Groups, prices: UnitPrices) -> _Week:
        versions, models, astray, jobs = {}, {}, _ZERO, 0
        for group, by_model in groups.items():
            if group[0] != task:
                continue
            found = per_job(by_model, prices)
            if found is None:
                astray += sum((Fraction(each.cost_usd) for each in by_model.values()), _ZERO)
                continue
            own = sum(each.jobs for each in by_model.values())
            versions[group] = own, found
            models[group] = max(by_model, key=lambda model: (by_model[model].output_tokens, model))
            jobs += own
        return cls(jobs, versions, models, astray)

    def share(self, group: Group) -> Fraction:
        return Fraction(self.versions[group][0], self.jobs) if group in self.versions else _ZERO

    @property
    def cost(self) -> Fraction:
        """Dollars of all jobs."""
        return sum((jobs * each.cost for jobs, each in self.versions.values()), _ZERO)


def _of_task(task: str, before: _Week, now: _Week) -> Iterable[Cause]:
    if before.jobs and now.jobs:
        volume = (now.jobs - before.jobs) * before.cost / before.jobs
        yield from _of_versions(task, before, now)
    else:
        volume = now.cost - before.cost
    yield Cause(task, None, {"volume": volume}, jobs=now.jobs, jobs_before=before.jobs)
    yield Cause(task, None, {"other": now.astray - before.astray})


def _of_versions(task: str, before: _Week, now: _Week) -> Iterable[Cause]:
    lost = {
        group: before.share(group) - now.share(group)
        for group in before.versions
        if before.share(group) > now.share(group)
    }
    replaced = mean((lost[group], before.versions[group][1]) for group in lost) if lost else None
    largest = max(lost, key=lambda group: (lost[group], group), default=None)
    for group, (jobs, current) in now.versions.items():
        known = before.versions.get(group)
        grown = now.share(group) - before.share(group)
        effects: dict[Kind, Fraction] = {}
        if known is not None and grown > 0 and replaced is not None:
            effects["mix"] = now.jobs * grown * (known[1].cost - replaced.cost)
        then = known[1] if known is not None else replaced
        assert then is not None  # noqa: S101 – its share was taken from others
        effects |= {kind: jobs * usd for kind, usd in _split(then, current).items()}
        yield Cause(
            task,
            group,
            effects,
            current,
            then,
            jobs,
            known[0] if known is not None else 0,
            now.share(group),
            before.share(group),
            largest[2] if largest is not None and grown > 0 else None,
            now.models[group],
            before.models[group if known is not None or largest is None else largest],
        )


def _split(then: PerJob, now: PerJob) -> dict[Kind, Fraction]:
    """The difference in cost of a job, by kind."""
    kept, unbatched = 1 - then.cache_share - then.coalescing_share, 1 - then.batch_share
    parts = {kind: usd * kept for kind, usd in _by_price_list(then, now).items()}
    parts["other"] = (now.full - then.full) * kept - sum(parts.values(), _ZERO)
    parts["cache"] = -now.full * (now.cache_share - then.cache_share)
    parts["coalescing"] = -now.full * (now.coalescing_share - then.coalescing_share)
    parts["prompt_cache"] = then.saved_by_prompt_cache - now.saved_by_prompt_cache
    split = {kind: usd * unbatched for kind, usd in parts.items()}
    split["batch"] = -now.before_batch * (now.batch_share - then.batch_share)
    return split


def _by_price_list(then: PerJob, now: PerJob) -> dict[Kind, Fraction]:
    """The difference in the full price of a job that asks Claude; nothing where it is unknown."""
    sides = (then, now)
    if not all(s.asked and s.replies and s.input_tokens and s.output_tokens for s in sides):
        return {}
    if not all(side.input_value and side.output_value for side in sides):
        return {}
    calls, written, read, write_price, read_price = zip(*map(_rates, sides), strict=True)
    return {
        "calls": (calls[1] - calls[0]) * (written[0] * write_price[0] + read[0] * read_price[0]),
        "output": calls[1] * (written[1] - written[0]) * write_price[0],
        "input": calls[1] * (read[1] - read[0]) * read_price[0],
        "price": calls[1]
        * (
            written[1] * (write_price[1] - write_price[0])
            + read[1] * (read_price[1] - read_price[0])
        ),
    }


def _rates(side: PerJob) -> tuple[Fraction, Fraction, Fraction, Fraction, Fraction]:
    """Replies a job, output and input tokens a reply, dollars an output and an input token."""
    return (
        side.replies / side.asked,
        side.output_tokens / side.replies,
        side.input_tokens / side.replies,
        side.output_value / side.output_tokens,
        side.input_value / side.input_tokens,
    )
