from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_evals import Case, Dataset

from worker.evals.expectations import EXPECTATIONS
from worker.evals.given import About, Given
from worker.evals.report import Facts, Judged, case_reports

OUTPUT = {
    "title": "The Pin-Maker’s Trade",
    "score": 0.4,
    "tags": ["pins", "labour"],
    "none": [],
    "blank": " ",
    "done": True,
    "sections": [
        {"heading": "Numbers", "items": [{"name": "Pins a day", "value": "48,000"}]},
        {"heading": "Mechanism", "items": []},
    ],
}
GIVEN = Given("case", {"text": "Ten  men\nmade the pins."})


def judge(
    name: str, arguments: dict[str, Any], given: Given = GIVEN, about: About | None = None
) -> Judged:
    """Through pydantic-evals, as in a run."""

    async def answer(_: Given) -> dict[str, Any]:
        return OUTPUT

    case = Case(
        name="case", inputs=given, metadata=about, evaluators=[EXPECTATIONS[name](**arguments)]
    )
    dataset = Dataset[Given, Any, About](name="test", cases=[case])
    found = asyncio.run(dataset.evaluate(answer, progress=False))
    (report,) = case_reports(["case"], found, {"case": Facts()})
    (judged,) = report.expectations
    return judged


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Count", {"at": "sections", "equals": 2}),
        ("Count", {"at": "none", "equals": 0}),
        ("Count", {"at": "sections[].items[]", "at_least": 1, "at_most": 1}),
        ("Count", {"at": "sections[?heading=='Numbers']", "equals": 1}),
        ("Number", {"at": "score", "at_least": 0, "at_most": 1}),
        ("Number", {"at": "length(tags)", "equals": 2}),
        ("Words", {"at": "title", "equals": 3}),
        ("Words", {"at": "sections[].heading", "at_most": 1}),
        ("Characters", {"at": "tags", "at_most": 6}),
        ("Contains", {"at": "title", "text": "pin-maker"}),
        ("Contains", {"at": "tags", "text": ["pins", "LABOUR"]}),
        ("Contains", {"text": "48,000"}),
        ("NotContains", {"at": "title", "text": ["wage", "TRADE"], "case_sensitive": True}),
        ("NotContains", {"text": "capital"}),
        ("Matches", {"at": "sections[].items[].value", "regex": r"^\d\d,\d{3}$"}),
        ("Equals", {"at": "done", "value": True}),
        ("Equals", {"at": "tags", "value": ["pins", "labour"]}),
        ("OneOf", {"at": "tags", "values": ["labour", "pins", "wages"]}),
        ("NotEmpty", {"at": "sections[].heading"}),
        ("Quotes", {"at": "tags[0]", "field": "text"}),
    ],
)
def test_what_is_met(name: str, arguments: dict[str, Any]) -> None:
    assert judge(name, arguments).verdict == "passed"


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("Count", {"at": "sections", "equals": 3}, "2 items, not 3: [{"),
        ("Count", {"at": "title", "equals": 3}, "at title is no list"),
        ("Number", {"at": "score", "at_least": 0.5}, "0.4, below 0.5"),
        ("Number", {"at": "done", "at_least": 0}, "true at done is no number"),
        ("Words", {"at": "title", "at_most": 2}, "3 words, above 2: "),
        ("Characters", {"at": "tags", "at_most": 5}, '6 characters, above 5: "labour"'),
        ("Contains", {"at": "tags", "text": ["pins", "men"]}, '"men" does not occur in ["pins"'),
        ("Contains", {"at": "title", "text": "TRADE", "case_sensitive": True}, "does not occur"),
        ("NotContains", {"at": "tags", "text": "Pin"}, '"Pin" occurs in "pins"'),
        ("Matches", {"at": "tags", "regex": "^p"}, 'no match in "labour"'),
        ("Equals", {"at": "title", "value": "x"}, "it is "),
        ("OneOf", {"at": "tags", "values": ["pins"]}, 'it is "labour"'),
        ("NotEmpty", {"at": "blank"}, 'item 1 is empty: " "'),
        ("Quotes", {"at": "tags", "field": "text"}, 'not there: "labour"'),
        ("Quotes", {"at": "blank", "field": "text"}, 'not there: " "'),
        ("Quotes", {"at": "tags", "field": "txt"}, "the input has no field 'txt'"),
    ],
)
def test_what_is_not_met_says_why_with_the_value(
    name: str, arguments: dict[str, Any], why: str
) -> None:
    judged = judge(name, arguments)

    assert judged.verdict == "failed"
    assert judged.why is not None
    assert why in judged.why
    assert "\n" not in judged.why


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("NotContains", {"text": "x"}),
        ("OneOf", {"values": ["x"]}),
        ("Words", {"at_most": 5}),
        ("NotEmpty", {}),
        ("Equals", {"value": None}),
    ],
)
@pytest.mark.parametrize("at", ["titel", "sections[].itms[].name", "none", "length(score)"])
def test_an_expectation_about_nothing_is_not_met(
    name: str, arguments: dict[str, Any], at: str
) -> None:
    """Otherwise a typing error in a path would pass for ever."""
    assert judge(name, arguments | {"at": at}).verdict == "failed"


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("Count", {"at": "x"}, "give one of equals, at_least, at_most"),
        ("Count", {"at": "x", "equals": "3"}, "valid number"),
        ("Words", {"at": "a[", "at_most": 3}, "'a[' is no JMESPath"),
        ("Matches", {"at": "x", "regex": "("}, "'(' is no regular expression"),
        ("OneOf", {"at": "x", "value": ["a"]}, "values"),
        ("NotEmpty", {}, "Field required"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    name: str, arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        EXPECTATIONS[name](**arguments)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("about", [None, About(live_only=True)])
def test_what_only_a_real_model_can_meet_is_skipped_without_one(about: About | None) -> None:
    arguments = {"at": "title", "value": "x", "live_only": about is None}

    assert judge("Equals", arguments, about=about).verdict == "skipped"
    assert judge("Equals", arguments, Given("case", {}, live=True), about).verdict == "failed"


def test_a_rubric_asks_the_judge_or_is_skipped() -> None:
    async def judge_it(rubric: str, given: Given, output: dict[str, Any]) -> tuple[bool, str]:
        return rubric == "short" and output is OUTPUT, given.case

    asked = Given("case", {}, live=True, judge=judge_it)
    assert judge("Rubric", {"text": "short"}).verdict == "skipped"
    assert judge("Rubric", {"text": "short"}, asked).verdict == "passed"
    assert judge("Rubric", {"text": "long"}, asked) == Judged(
        name='Rubric {text: "long"}', verdict="failed", why="case"
    )
