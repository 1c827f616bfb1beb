from __future__ import annotations

from pathlib import Path

import pytest

from worker.engine.task import Task, TaskInput, TaskOutput
from worker.errors import ConfigurationError
from worker.evals.cases import load_cases


class Input(TaskInput):
    name: str


class Output(TaskOutput):
    greeting: str


GREET = Task(name="greet", input=Input, output=Output)

GOOD = """
evaluators:
- NotEmpty: greeting
cases:
- name: by name
  inputs: {name: Zoë}
  evaluators:
  - Contains: {at: greeting, text: Zoë}
- name: politely
  inputs:
    name: {$file: name.txt}
  metadata: {since: "1.1", why: Version 1.0 was not asked to.}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "greet").mkdir()
    (tmp_path / "greet" / "name.txt").write_text("Dr. Weber\n", encoding="utf-8")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    (folder / "greet" / "cases.yaml").write_text(text, encoding="utf-8")
    return folder


def test_cases_come_with_their_inputs_files_and_expectations(folder: Path) -> None:
    cases = load_cases(written(folder, GOOD), GREET)

    first, second = cases.dataset.cases
    assert first.name == first.inputs.case == "by name"
    assert second.inputs.values == {"name": "Dr. Weber"}
    assert [each.get_serialization_name() for each in first.evaluators] == ["Contains"]
    assert [each.get_serialization_name() for each in cases.dataset.evaluators] == ["NotEmpty"]


def test_a_date_is_the_text_that_an_output_has(folder: Path) -> None:
    dated = GOOD.replace(
        "Contains: {at: greeting, text: Zoë}", "Equals: {at: day, value: 2026-05-01}"
    )

    (expected,) = load_cases(written(folder, dated), GREET).dataset.cases[0].evaluators

    assert expected.build_serialization_arguments()["value"] == "2026-05-01"


def test_a_version_has_the_cases_that_were_promised_by_then(folder: Path) -> None:
    cases = load_cases(written(folder, GOOD), GREET)

    assert [case.name for case in cases.of_version("1.0").cases] == ["by name"]
    assert len(cases.of_version("1.1").cases) == len(cases.of_version("1.10").cases) == 2


def test_the_hash_is_about_content_not_layout(folder: Path) -> None:
    def digest(text: str) -> str:
        return load_cases(written(folder, text), GREET).sha256

    before = digest(GOOD)
    assert digest("# a comment\n" + GOOD.replace("{name: Zoë}", "{ 'name':  Zoë }")) == before
    assert digest(GOOD.replace("at: greeting, text: Zoë", "at: greeting, text: Zoe")) != before
    (folder / "greet" / "name.txt").write_text("Dr. Berg", encoding="utf-8")
    assert digest(GOOD) != before


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cases: [", "cases.yaml:1: "),
        ("cases:\n- name: a\n  name: b\n", "cases.yaml:3: the key 'name' is there twice"),
        ("cases: {}", "cases.yaml: cases: expected a list"),
        ("cases: []", "cases: there are none"),
        ("case: []", "expected a list"),
        ("[]", "expected a list"),
        ("cases:\n- inputs: {}\n", "case 1: name: every case needs one"),
        ("cases:\n- name: a\n", "case 'a': inputs: Field required"),
        ("cases:\n- {name: a, inputs: {}}\n", "case 'a': inputs: greet: name: Field required"),
        ("cases:\n- {name: a, inputs: {name: 1}}\n", "case 'a': inputs: greet: name: Input should"),
        ("cases:\n- {name: a, inputs: 1}\n", "case 'a': inputs: "),
        ("cases:\n- {name: a, input: {}}\n", "case 'a': "),
        (f"{GOOD}  evaluator: []\n", "case 'politely': evaluator: Extra inputs are not permitted"),
        (f"{GOOD}  expected_output: {{greeting: x}}\n", "expected_output: say it with evaluators"),
        (f"{GOOD}  evaluators: 3\n", "case 'politely': evaluators: Input should be a valid list"),
        (f"{GOOD}- name: by name\n  inputs: {{name: B}}\n", "Duplicate case name: 'by name'"),
        (
            GOOD.replace("Contains", "Contain"),
            "case 'by name': evaluators: unknown expectation 'Co",
        ),
        (GOOD.replace("Contains", "LLMJudge"), "unknown expectation 'LLMJudge'; there are Count, "),
        (GOOD.replace("NotEmpty", "LLMJudge"), "cases.yaml: evaluators: unknown expectation 'LLM"),
        (GOOD.replace("text: Zoë", "txt: Zoë"), "case 'by name': Contains: text"),
        (GOOD.replace("at: greeting", "at: '['"), "Contains: at: Value error, '[' is no JMESPath"),
        (GOOD.replace('"1.1"', "1.1"), "case 'politely': metadata.since: "),
        (GOOD.replace("name.txt", "nome.txt"), "$file: nome.txt: "),
        (GOOD.replace("name.txt", r'"a\0b"'), "it holds what is no JSON: embedded null byte"),
        (GOOD.replace("text: Zoë", "text: !!set {a}"), "no JSON: Object of type set is not JSON"),
        (GOOD.replace("text: Zoë", "text: .nan"), "it holds what is no JSON: Out of range float"),
        ("cases: &all [*all]", "it holds what is no JSON: nested too deeply"),
        (f"cases: {'[' * 3000}{']' * 3000}", "it holds what is no JSON: nested too deeply"),
        ("? [a]\n: 1\n", "cases.yaml:1: a key is a text"),
        (f"{GOOD}  evaluators: [[[a]]]\n", "unknown expectation [['a']]"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_case_and_key(
    folder: Path, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_cases(written(folder, text), GREET)

    said = str(caught.value)
    assert said.startswith("prompts/greet/cases.yaml")
    assert complaint in said
    assert "\n" not in said


def test_a_prompt_without_cases_says_which_file_is_missing(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no cases: write prompts/greet/cases\.yaml"):
        load_cases(folder, GREET)
