"""The pages: the same templates on the local server and in a file to send around."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from worker.engine.evidence import upper_bound
from worker.engine.registry import AnyTask
from worker.html import source_hash, templates
from worker.review import verdicts as mapping
from worker.review.document import digest_of
from worker.review.views import view_sample, with_verdict
from worker.storage.review_samples import Sample
from worker.storage.reviews import Review, Verdict

_FOLDER = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return templates(_FOLDER / "templates")


@lru_cache(maxsize=2)
def asset(name: str) -> str:
    """`review.css` or `review.js`."""
    return (_FOLDER / "static" / name).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class State:
    """A review with everything known of it, read at one time."""

    review: Review
    task: AnyTask
    samples: Sequence[Sample]
    verdicts: Sequence[Verdict]

    def of(self, reviewer: str | None) -> dict[int, Verdict]:
        """The reviewer's verdicts by sample."""
        return {each.sample: each for each in self.verdicts if each.reviewer == reviewer}

    def done(self, reviewer: str | None) -> bool:
        """Whether the reviewer has judged everything, and may know which side was which."""
        return reviewer is not None and mapping.done(self.samples, self.verdicts, reviewer)


def overview(state: State, reviewer: str, suggested: str) -> str:
    """The first page: who reviews, how far they are – and in the end what was found."""
    mine = state.of(reviewer or None)
    revealed = state.done(reviewer or None)
    return (
        _environment()
        .get_template("overview.html")
        .render(
            review=state.review,
            reviewer=reviewer,
            suggested=suggested,
            most_name=mapping.MOST_NAME,
            total=len(state.samples),
            judged=len(mine),
            next_number=next_open(state, reviewer),
            lines=[
                (each.number, digest_of(each.input), _said(state.review, each, mine))
                for each in state.samples
            ],
            revealed=revealed,
            summary=summary(state) if revealed else None,
        )
    )


def sample_page(state: State, number: int, reviewer: str) -> str:
    """One sample, with the buttons."""
    revealed = state.done(reviewer)
    sample = state.samples[number - 1]
    mine = state.of(reviewer)
    view = view_sample(state.review, sample, state.task, revealed=revealed)
    return (
        _environment()
        .get_template("sample.html")
        .render(
            review=state.review,
            reviewer=reviewer,
            view=with_verdict(view, sample, mine.get(number)),
            choices=mapping.choices(state.review),
            most_note=mapping.MOST_NOTE,
            total=len(state.samples),
            judged=len(mine),
            next_number=next_open(state, reviewer),
            revealed=revealed,
        )
    )


def message_page(title: str, message: str) -> str:
    """A page that says one thing."""
    return _environment().get_template("message.html").render(title=title, message=message)


def export_page(state: State, *, revealed: bool) -> str:
    """Everything in one file that loads nothing.

    Blind, it collects verdicts, to be imported; revealed, it shows those that there are.
    """
    views = [view_sample(state.review, s, state.task, revealed=revealed) for s in state.samples]
    css, js = asset("review.css"), asset("review.js")
    return (
        _environment()
        .get_template("export.html")
        .render(
            review=state.review,
            views=views,
            total=len(views),
            choices=mapping.choices(state.review),
            most_note=mapping.MOST_NOTE,
            most_name=mapping.MOST_NAME,
            revealed=revealed,
            summary=summary(state) if revealed else None,
            said={
                sample.number: [each for each in state.verdicts if each.sample == sample.number]
                for sample in state.samples
            },
            css=Markup(css),  # noqa: S704 – our own file
            js=Markup(js),  # noqa: S704 – our own file
            policy=f"default-src 'none'; style-src '{source_hash(css)}'; "
            f"script-src '{source_hash(js)}'; base-uri 'none'; form-action 'none'",
        )
    )


def next_open(state: State, reviewer: str, after: int = 0) -> int | None:
    """The first sample after `after`, or else from the start, that the reviewer has not judged."""
    mine = state.of(reviewer)
    numbers = [each.number for each in state.samples if each.number not in mine]
    return next((number for number in numbers if number > after), min(numbers, default=None))


def summary(state: State) -> dict[str, Any]:
    """What all reviewers said of the candidate; not to be shown to one who is not done."""
    alone = state.review.baseline_sha256 is None
    words = ["acceptable"] if alone else ["better", "same", "worse"]
    words.append("unacceptable")
    by_reviewer: dict[str, list[Verdict]] = {}
    for verdict in state.verdicts:
        by_reviewer.setdefault(verdict.reviewer, []).append(verdict)
    judged = {each.sample for each in state.verdicts}
    refused = {each.sample for each in state.verdicts if each.verdict == "unacceptable"}
    return {
        "words": words,
        "reviewers": [(name, _counts(words, by_reviewer[name])) for name in sorted(by_reviewer)],
        "all": _counts(words, state.verdicts),
        "judged": len(judged),
        "unacceptable": len(refused),
        "bound": f"{100 * upper_bound(len(judged)):.0f} %" if judged and not refused else None,
        "samples": [
            (sample.number, [each for each in state.verdicts if each.sample == sample.number])
            for sample in state.samples
        ],
    }


def _counts(words: Iterable[str], verdicts: Iterable[Verdict]) -> list[int]:
    counted = Counter(each.verdict for each in verdicts)
    return [counted[word] for word in words]


def _said(review: Review, sample: Sample, mine: dict[int, Verdict]) -> str | None:
    verdict = mine.get(sample.number)
    if verdict is None:
        return None
    labels = {each.value: each.label for each in mapping.choices(review)}
    return labels.get(mapping.to_choice(sample, verdict), verdict.verdict)
