from __future__ import annotations

from decimal import Decimal
from xml.etree import ElementTree as ET

from worker.evals.junit import as_junit
from worker.evals.report import CaseReport, Judged, Report

REPORT = Report(
    prompt="greet",
    version="1.0",
    prompt_sha256="0" * 64,
    cases_sha256="1" * 64,
    mode="live",
    passed=False,
    cost_usd=Decimal("0.5"),
    cases=[
        CaseReport(
            name="by <name>",
            expectations=[
                Judged(name="Contains", verdict="passed"),
                Judged(name="Words", verdict="failed", why="it has a \x00 & a \ud800"),
                Judged(name="Rubric", verdict="skipped", why="no judge"),
            ],
        ),
        CaseReport(name="politely", error="the job failed"),
    ],
)


def test_every_expectation_is_a_test_and_a_case_without_output_an_error() -> None:
    document = as_junit(REPORT)

    (suite,) = ET.fromstring(document)  # noqa: S314 – our own
    assert suite.attrib == {
        "name": "greet/1.0 (live)",
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    names = [test.attrib["name"] for test in suite]
    assert names[:2] == ["by <name>: reply", "by <name>: Contains"]
    found = {
        (test.attrib["name"], each.tag, each.attrib["message"]) for test in suite for each in test
    }
    assert found == {
        ("by <name>: Words", "failure", "it has a \ufffd & a \ufffd"),
        ("by <name>: Rubric", "skipped", "no judge"),
        ("politely: reply", "error", "the job failed"),
    }


def test_what_is_stored_is_something_that_postgres_takes() -> None:
    assert "\\u0000" not in REPORT.as_stored()
    assert "\\ud800" not in REPORT.as_stored()
