from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worker.engine.choose import Choice
from worker.engine.prepare import Preparer
from worker.engine.prompts import PromptLibrary
from worker.engine.recordings import (
    Recording,
    choices,
    load_recordings,
    path_of,
    replay,
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
    return Recording(case=case, input={"name": "Zoë"}, reply=reply | changes)


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


def judged(registry: Registry, choice: Choice, each: Recording) -> str:
    (replayed,) = replay(Preparer(registry), choice, [each])
    return str(replayed)


def test_recordings_are_read_as_they_were_written_and_are_no_prompts(
    registry: Registry, choice: Choice, tmp_path: Path
) -> None:
    written = [recording(case, HELLO) for case in ("a", "b", "c")]

    path = save_recordings(tmp_path, choice.prompt, written)

    assert path == tmp_path / "greet" / "recorded" / "1.0.jsonl"
    assert load_recordings(tmp_path, choice.prompt) == written
    assert PromptLibrary.load(tmp_path).versions("greet") == ["1.0"]


def test_what_is_accepted_comes_with_its_output_and_warnings(
    registry: Registry, choice: Choice
) -> None:
    loud, low = recording("loud", HELLO), recording("low", '{"greeting": "oh, Zoë"}'.lower())
    low = low.model_copy(update={"input": {"name": "zoë"}})

    replayed = replay(Preparer(registry), choice, [loud, low])

    assert [each.failure for each in replayed] == [None, None]
    assert str(replayed[0]) == "greet/1.0, case loud: accepted"
    assert str(replayed[1]) == "greet/1.0, case low: warning is_loud: it whispers"


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
    registry: Registry, choice: Choice, each: Recording, complaint: str
) -> None:
    said = judged(registry, choice, each)

    assert said.startswith("greet/1.0, case x: ")
    assert complaint in said
    assert "\n" not in said


def test_a_version_without_recordings_names_the_command(choice: Choice, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"greet/1\.0 .*python -m sandbox\.record greet`"):
        load_recordings(tmp_path, choice.prompt)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["a", "b"], r"has 2 cases, expected 3 .*sandbox\.record greet --again"),
        (["a", "b", "a"], r"1\.0\.jsonl:3: case 'a' is there twice"),
        (["a", "{", "c"], r"1\.0\.jsonl:2: \(all\): Invalid JSON"),
        (["a", '{"case": "b"}', "c"], r"1\.0\.jsonl:2: input: Field required"),
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
