from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worker.engine.choose import Choice
from worker.engine.prepare import Preparer
from worker.engine.promptcheck import Checked, check_versions
from worker.engine.prompts import PromptLibrary
from worker.engine.recordings import (
    Recording,
    Stale,
    choices,
    load_recordings,
    path_of,
    replay,
    require_fresh,
    save_recordings,
)
from worker.engine.registry import Registry
from worker.engine.task import Task, TaskInput, TaskOutput
from worker.errors import ConfigurationError

VERSION = 'model = "m"\nmax_tokens = 10\nsystem = "s"\ntemplate = "{{ name }}"\n'


class Input(TaskInput):
    name: str


class Output(TaskOutput):
    greeting: str


def greets_by_name(input: Input, output: Output) -> str | None:
    return None if input.name in output.greeting else f"{input.name} is not greeted"


def is_loud(input: Input, output: Output) -> str | None:
    return "it whispers" if output.greeting.islower() else None


GREET = Task(name="greet", input=Input, output=Output, checks=[greets_by_name], warnings=[is_loud])


def recording(case: str, text: str, **changes: Any) -> Recording:
    reply = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    return Recording(
        case=case, prompt_sha256="0" * 64, input={"name": "Zoë"}, reply=reply | changes
    )


HELLO = '{"greeting": "Hello Zoë\u2028"}'


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "greet").mkdir()
    (tmp_path / "greet" / "1.0.toml").write_text(VERSION)
    return Registry({"greet": GREET}, PromptLibrary.load(tmp_path))


@pytest.fixture
def choice(registry: Registry) -> Choice:
    (only,) = choices(registry)
    return only


def fresh(each: Recording, choice: Choice) -> Recording:
    return each.model_copy(update={"prompt_sha256": choice.prompt.sha256})


def test_recordings_are_read_as_they_were_written_and_are_no_prompts(
    registry: Registry, choice: Choice, tmp_path: Path
) -> None:
    written = [recording(case, HELLO) for case in ("a", "b", "c")]

    path = save_recordings(tmp_path, choice.prompt, written)

    assert path == tmp_path / "greet" / "recorded" / "1.0.jsonl"
    assert list(load_recordings(tmp_path, choice.prompt).values()) == written
    assert PromptLibrary.load(tmp_path).versions("greet") == ["1.0"]


def test_what_is_accepted_comes_with_its_output_and_warnings(
    registry: Registry, choice: Choice
) -> None:
    low = recording("low", '{"greeting": "oh, zoë"}').model_copy(update={"input": {"name": "zoë"}})

    reply, accepted = replay(Preparer(registry), choice, low)

    assert reply.tokens.output == 1
    assert accepted.output == Output(greeting="oh, zoë")
    assert accepted.warnings == [{"check": "is_loud", "problem": "it whispers"}]


@pytest.mark.parametrize(
    ("each", "complaint"),
    [
        (recording("x", '{"greeting": "Hi"}'), "check greets_by_name failed: Zoë is not greeted"),
        (recording("x", '{"greting": "Hi"}'), "greeting: Field required"),
        (recording("x", HELLO, stop_reason="max_tokens"), "the reply was cut off (max_tokens)"),
        (recording("x", "", stop_reason="refusal"), "Claude declined to answer"),
        (recording("x", HELLO, content="text"), "no message: content: "),
        (recording("x", HELLO).model_copy(update={"input": {"nam": "Zoë"}}), "name: Field requi"),
    ],
)
def test_what_is_not_accepted_is_named_by_prompt_version_case_and_check(
    registry: Registry, choice: Choice, tmp_path: Path, each: Recording, complaint: str
) -> None:
    save_recordings(tmp_path, choice.prompt, [fresh(each, choice)])

    with pytest.raises(ConfigurationError) as caught:
        check_versions(registry, tmp_path)

    said = str(caught.value)
    assert said.startswith("prompt greet/1.0, recorded case 'x': ")
    assert complaint in said
    assert "\n" not in said


def test_checks_may_be_left_to_the_caller(registry: Registry, choice: Choice) -> None:
    _, accepted = replay(
        Preparer(registry), choice, recording("x", '{"greeting": "Hi"}'), checks=False
    )

    assert accepted.output == Output(greeting="Hi")


def test_versions_may_be_without_recordings(
    registry: Registry, choice: Choice, tmp_path: Path
) -> None:
    assert check_versions(registry, tmp_path) == [Checked("greet/1.0", 0)]
    save_recordings(tmp_path, choice.prompt, [fresh(recording("a", HELLO), choice)])
    assert check_versions(registry, tmp_path) == [Checked("greet/1.0", 1)]


def test_a_recording_answers_one_input_and_one_content(choice: Choice) -> None:
    each = fresh(recording("a", HELLO), choice)

    require_fresh(each, choice, {"name": "Zoë"})
    with pytest.raises(Stale, match="the input was changed"):
        require_fresh(each, choice, {"name": "Zoe"})
    with pytest.raises(Stale, match="the prompt version was edited"):
        require_fresh(recording("a", HELLO), choice, {"name": "Zoë"})
    with pytest.raises(Stale, match="name: Field required"):
        require_fresh(each.model_copy(update={"input": {}}), choice, {"name": "Zoë"})


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["a", "b", "a"], r"1\.0\.jsonl:3: case 'a' is there twice"),
        (["a", "{", "c"], r"1\.0\.jsonl:2: \(all\): Invalid JSON"),
        (["a", '{"case": "b"}', "c"], r"1\.0\.jsonl:2: prompt_sha256: Field required"),
        (["a", "\udcff", "c"], r"1\.0\.jsonl:2: "),
    ],
)
def test_a_broken_file_is_one_line_that_names_its_own(
    choice: Choice, tmp_path: Path, lines: list[str], complaint: str
) -> None:
    path = path_of(tmp_path, choice.prompt)
    path.parent.mkdir()
    whole = json.dumps(recording("CASE", HELLO).model_dump())
    written = [whole.replace("CASE", line) if line in "abc" else line for line in lines]
    path.write_text("\n".join(written), encoding="utf-8", errors="surrogateescape")

    with pytest.raises(ConfigurationError, match=complaint) as caught:
        load_recordings(tmp_path, choice.prompt)
    assert "\n" not in str(caught.value)
