"""A report as JUnit XML, which every CI service shows: a test is an expectation of a case."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from worker.evals.report import CaseReport, Judged, Report

#: Characters that XML 1.0 cannot hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(report: Report) -> bytes:
    """The XML document, in UTF-8."""
    name = f"{report.prompt}/{report.version} ({report.mode})"
    suite = ET.Element("testsuite", name=name, tests="0")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for case in report.cases:
        for judged in _tests(case):
            counts["tests"] += 1
            test = ET.SubElement(
                suite,
                "testcase",
                classname=f"{report.prompt}/{report.version}",
                name=_legal(f"{case.name}: {judged.name}"),
            )
            match judged.verdict:
                case "failed" if case.error is not None:
                    counts["errors"] += 1
                    ET.SubElement(test, "error", message=_legal(judged.why or ""))
                case "failed":
                    counts["failures"] += 1
                    ET.SubElement(test, "failure", message=_legal(judged.why or ""))
                case "skipped":
                    counts["skipped"] += 1
                    ET.SubElement(test, "skipped", message=_legal(judged.why or ""))
    suite.attrib.update({key: str(count) for key, count in counts.items()})
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    document: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _tests(case: CaseReport) -> list[Judged]:
    if case.error is not None:
        return [Judged(name="reply", verdict="failed", why=case.error)]
    return [Judged(name="reply", verdict="passed"), *case.expectations]


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
