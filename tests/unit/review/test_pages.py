"""Pages betray nothing before the verdict, and hostile texts are shown inert."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tasks import summarize_text
from tests.reviewing import BETTER, WORSE, review, sample, succeeded
from worker.html import visible
from worker.review.pages import State, export_page, overview, sample_page
from worker.storage.review_samples import Sample
from worker.storage.reviews import Verdict

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'</p></textarea></style><!--"
    "{{ 7 * 7 }}{% raw %}\u202eevil\u2066\u200b\x1b[31m&amp;javascript:alert(1)"
)
FAILED = {
    "state": "failed",
    "error": {"type": "template_error", "message": "the template of summarize_text/1.1 failed"},
    "calls": 1,
}


def state(*samples: Sample, verdicts: tuple[Verdict, ...] = (), baseline: bool = True) -> State:
    return State(review(baseline=baseline), summarize_text, samples, verdicts)


def swapped(shown: Sample) -> Sample:
    """The same outputs in the same places, with the roles exchanged."""
    return replace(
        shown,
        candidate=shown.baseline,
        baseline=shown.candidate,
        candidate_left=not shown.candidate_left,
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (succeeded(BETTER, model="claude-opus-5-5", calls=2), succeeded(WORSE)),
        (succeeded(BETTER), FAILED),
        (succeeded(BETTER, warnings=[{"check": "tone", "problem": "rude"}]), succeeded(BETTER)),
        ({"state": "cancelled"}, FAILED),
        (None, succeeded(BETTER)),
    ],
    ids=["two outputs", "a failure", "a warning", "no output", "pending"],
)
def test_a_page_is_the_same_whichever_side_the_candidate_is_on(one: Any, other: Any) -> None:
    shown = sample(one, other)

    page = sample_page(state(shown), 1, "Ann")

    assert page == sample_page(state(swapped(shown)), 1, "Ann")
    exported = export_page(state(shown), revealed=False)
    assert exported == export_page(state(swapped(shown)), revealed=False)
    for text in (page, exported):
        assert "claude-" not in text.replace("claude-jobs", "")
        assert "0.0012" not in text
        assert not re.search(r"summarize_text/1\.1|candidate", text)


def test_a_failure_is_shown_as_what_it_is_without_the_version_it_names() -> None:
    page = sample_page(state(sample(succeeded(BETTER), FAILED)), 1, "Ann")

    assert "There is no output on this side: the job failed." in page
    assert "the template of summarize_text/[version] failed" in page


def test_the_sides_are_named_once_everything_is_judged() -> None:
    shown = sample(succeeded(BETTER), succeeded(WORSE), candidate_left=False)
    others = sample(succeeded(BETTER), succeeded(WORSE), number=2)
    first = Verdict(sample=1, reviewer="Ann", verdict="better", note="short")
    second = Verdict(sample=2, reviewer="Ann", verdict="worse")

    begun = state(shown, others, verdicts=(first,))
    done = state(shown, others, verdicts=(first, second))

    assert "(candidate)" not in sample_page(begun, 1, "Ann")
    assert "What was said" not in overview(begun, "Ann", "")
    page = sample_page(done, 1, "Ann")
    assert page.index("1.0 (baseline)") < page.index("1.1 (candidate)")
    assert "claude-haiku-5-5, 1 call, 1,234 output tokens, $0.0012" in page
    assert "(candidate)" not in sample_page(done, 1, "Bob")
    assert "What was said of 1.1 beside 1.0" in overview(done, "Ann", "")
    assert "more than 78 % of its outputs" in overview(done, "Ann", "")


@pytest.mark.parametrize("revealed", [True, False])
def test_hostile_texts_are_inert(revealed: bool) -> None:
    output = {"summary": HOSTILE, "key_points": [HOSTILE, "x" * 100_000]}
    problem = {"path": HOSTILE, "problem": HOSTILE}
    failed = {
        "state": "failed",
        "error": {"type": HOSTILE, "message": HOSTILE, "problems": [problem]},
    }
    warned = succeeded(output, warnings=[{"check": HOSTILE, "problem": HOSTILE}])
    shown = sample(warned, failed, text=HOSTILE, audience=HOSTILE)
    verdict = Verdict(sample=1, reviewer="Ann", verdict="better", note=HOSTILE)
    everything = state(shown, verdicts=(verdict,) if revealed else ())

    pages = [
        overview(everything, "Ann", HOSTILE),
        sample_page(everything, 1, "Ann"),
        export_page(everything, revealed=revealed),
    ]

    for page in pages:
        assert "<img" not in page
        assert "<script>alert" not in page
        # A reviewer's own note stays as it was typed, where it can be edited.
        assert "\u202e" not in re.sub("<textarea.*?</textarea>", "", page, flags=re.DOTALL)
        assert "49" not in re.sub(r"sha256-\S+", "", page.split("<body>")[1].split("<script>")[0])
        assert page.count("</textarea>") == page.count("<textarea")


def test_unseen_characters_are_named() -> None:
    assert visible("a\u202eb") == (
        'a<span class="unseen" title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>b'
    )
    assert visible("\x1b") == '<span class="unseen" title="control character">U+001B</span>'
    assert visible("नमस्ते 👩‍👧 x\ty") == "नमस्ते 👩‍👧 x\ty"


def test_a_first_version_is_shown_alone() -> None:
    page = sample_page(state(sample(succeeded(BETTER), None), baseline=False), 1, "Ann")

    assert 'value="acceptable"' in page
    assert 'value="left"' not in page
    assert "pending" not in page


def test_outputs_that_are_the_same_are_called_so() -> None:
    told = "The two outputs are the same, word for word."
    same = sample(succeeded(BETTER), succeeded(BETTER, calls=2))
    assert told in sample_page(state(same), 1, "Ann")
    for other in (sample(succeeded(BETTER), succeeded(WORSE)), sample(FAILED, FAILED)):
        assert told not in sample_page(state(other), 1, "Ann")


def test_an_output_that_fits_the_model_no_longer_is_shown_as_it_is() -> None:
    old = succeeded({"abstract": "An older shape."})
    assert "An older shape." in sample_page(state(sample(old, succeeded(BETTER))), 1, "Ann")
