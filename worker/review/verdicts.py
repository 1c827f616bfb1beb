"""From what a reviewer sees – left and right – to what it says of the candidate, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.errors import InvalidInput
from worker.storage.review_samples import Sample
from worker.storage.reviews import Review, Verdict

#: Characters of a note, and of a reviewer's name.
MOST_NOTE, MOST_NAME = 10_000, 100


@dataclass(frozen=True, slots=True)
class Choice:
    """A button: what it sends, the key that presses it, what it says, and how serious it is."""

    value: str
    key: str
    label: str
    grave: bool = False


PAIRED = (
    Choice("left", "1", "Left is better"),
    Choice("same", "2", "About the same"),
    Choice("right", "3", "Right is better"),
    Choice("left-unacceptable", "4", "Left is unacceptable", grave=True),
    Choice("both-unacceptable", "5", "Both are unacceptable", grave=True),
    Choice("right-unacceptable", "6", "Right is unacceptable", grave=True),
)
ALONE = (
    Choice("acceptable", "1", "Acceptable"),
    Choice("unacceptable", "4", "Unacceptable", grave=True),
)


def choices(review: Review) -> tuple[Choice, ...]:
    """The buttons of a review."""
    return ALONE if review.baseline_sha256 is None else PAIRED


def clean_name(value: str) -> str:
    """A reviewer's name: printable, on one line.

    Raises:
        InvalidInput: nothing is left of it, or it is too long.
    """
    name = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    if not name or len(name) > MOST_NAME:
        raise InvalidInput(f"a reviewer's name has 1 to {MOST_NAME} characters")
    return name


def to_verdict(
    review: Review, sample: Sample, choice: str, *, reviewer: str, note: str, blind: bool
) -> Verdict:
    """What a choice says of the candidate.

    Raises:
        InvalidInput: the sample has no outputs yet, the review has no such choice, or the note is
            too long.
    """
    if sample.candidate is None or (review.baseline_sha256 and sample.baseline is None):
        # What was judged stays as it is: it would never get any.
        raise InvalidInput(f"sample {sample.number} has not been generated yet")
    if choice not in {each.value for each in choices(review)}:
        raise InvalidInput(f"sample {sample.number}: {choice!r} is not a verdict of this review")
    if len(note) > MOST_NOTE:
        raise InvalidInput(f"sample {sample.number}: the note exceeds {MOST_NOTE:,} characters")
    verdict, baseline_unacceptable = _meaning(choice, sample.candidate_left)
    return Verdict(
        sample=sample.number,
        reviewer=reviewer,
        verdict=verdict,
        baseline_unacceptable=baseline_unacceptable,
        blind=blind,
        note=note.replace("\x00", "\ufffd").strip(),
    )


def _meaning(choice: str, candidate_left: bool) -> tuple[str, bool]:
    side, _, unacceptable = choice.partition("-")
    match side, bool(unacceptable):
        case "both", _:
            return "unacceptable", True
        case (("left" | "right"), grave):
            about_candidate = (side == "left") == candidate_left
            if grave:
                return ("unacceptable", False) if about_candidate else ("better", True)
            return ("better", False) if about_candidate else ("worse", False)
    return choice, False


def to_choice(sample: Sample, verdict: Verdict) -> str:
    """The button that says this of the sample."""
    candidate, baseline = ("left", "right") if sample.candidate_left else ("right", "left")
    match verdict.verdict, verdict.baseline_unacceptable:
        case "unacceptable", True:
            return "both-unacceptable"
        case "unacceptable", False if sample.baseline is not None:
            return f"{candidate}-unacceptable"
        case "better", True:
            return f"{baseline}-unacceptable"
        case "better", False:
            return candidate
        case "worse", _:
            return baseline
    return verdict.verdict


def done(samples: Sequence[Sample], verdicts: Iterable[Verdict], reviewer: str) -> bool:
    """Whether the reviewer has judged every sample, and may know which side was which."""
    judged = {each.sample for each in verdicts if each.reviewer == reviewer}
    return bool(samples) and judged >= {sample.number for sample in samples}
