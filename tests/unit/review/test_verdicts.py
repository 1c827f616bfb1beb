"""What left and right mean for the candidate."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reviewing import BETTER, WORSE, review, sample, succeeded
from worker.errors import InvalidInput
from worker.review.verdicts import ALONE, PAIRED, clean_name, to_choice, to_verdict

MEANING = {  # choice: (candidate on the left, candidate on the right)
    "left": ("better", "worse"),
    "same": ("same", "same"),
    "right": ("worse", "better"),
    "left-unacceptable": ("unacceptable", "better"),
    "both-unacceptable": ("unacceptable", "unacceptable"),
    "right-unacceptable": ("better", "unacceptable"),
}


@pytest.mark.parametrize("candidate_left", [True, False])
@pytest.mark.parametrize("choice", [each.value for each in PAIRED])
def test_a_choice_is_about_the_candidate_and_comes_back(choice: str, candidate_left: bool) -> None:
    shown = sample(succeeded(BETTER), succeeded(WORSE), candidate_left=candidate_left)
    verdict = to_verdict(review(), shown, choice, reviewer="Ann", note=" why ", blind=True)

    assert verdict.verdict == MEANING[choice][0 if candidate_left else 1]
    assert verdict.note == "why"
    assert to_choice(shown, verdict) == choice


@pytest.mark.parametrize("choice", [each.value for each in ALONE])
def test_without_a_baseline_an_output_is_acceptable_or_not(choice: str) -> None:
    shown = sample(succeeded(BETTER), None)
    alone = review(baseline=False)
    verdict = to_verdict(alone, shown, choice, reviewer="Ann", note="", blind=True)

    assert verdict.verdict == to_choice(shown, verdict) == choice
    with pytest.raises(InvalidInput, match="'left' is not a verdict of this review"):
        to_verdict(alone, shown, "left", reviewer="Ann", note="", blind=True)


@pytest.mark.parametrize("outputs", [(None, BETTER), (BETTER, None)])
def test_what_has_no_outputs_yet_is_not_judged(outputs: tuple[Any, Any]) -> None:
    pending = sample(*(each and succeeded(each) for each in outputs))
    with pytest.raises(InvalidInput, match="sample 1 has not been generated yet"):
        to_verdict(review(), pending, "same", reviewer="Ann", note="", blind=True)


def test_what_is_no_verdict_is_refused() -> None:
    shown = sample(succeeded(BETTER), succeeded(WORSE), number=3)
    for choice in ("", "acceptable", "left-better", "both", "unacceptable"):
        with pytest.raises(InvalidInput, match="sample 3: "):
            to_verdict(review(), shown, choice, reviewer="Ann", note="", blind=True)
    with pytest.raises(InvalidInput, match="the note exceeds 10,000 characters"):
        to_verdict(review(), shown, "left", reviewer="Ann", note="x" * 10_001, blind=True)


def test_names_are_one_printable_line() -> None:
    assert clean_name("  Ann\n\u202eB.\x00 ") == "Ann B."
    for name in ("", " \t", "\u202e", "x" * 101):
        with pytest.raises(InvalidInput, match="a reviewer's name has 1 to 100 characters"):
            clean_name(name)
