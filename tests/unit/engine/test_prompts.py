from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from jinja2.exceptions import SecurityError

from worker.engine.prompts import Prompt, PromptFile, PromptLibrary
from worker.errors import ConfigurationError, UnknownPromptVersion

VERSION = 'model = "m"\nmax_tokens = 10\nsystem = "{{ output_schema }}"\ntemplate = "{{ text }}"\n'

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `<version>.toml` files of a prompt called `greet`."""

    def write(**files: str) -> Path:
        (tmp_path / "greet").mkdir(exist_ok=True)
        for version, content in files.items():
            (tmp_path / "greet" / f"{version}.toml").write_text(content, encoding="utf-8")
        return tmp_path

    return write


def prompt(system: str = "s", template: str = "{{ text }}", notes: str = "") -> Prompt:
    file = PromptFile(model="m", max_tokens=1, system=system, template=template, notes=notes)
    return Prompt("greet", "1.0", file)


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        PromptLibrary.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_versions_are_ordered_as_versions(write: Write) -> None:
    library = PromptLibrary.load(write(**dict.fromkeys(["2.10", "2.9", "10", "2"], VERSION)))

    assert library.versions("greet") == ["2", "2.9", "2.10", "10"]
    assert library.get("greet").version == "10"


def test_an_unknown_version_is_named_with_those_there_are(write: Write) -> None:
    library = PromptLibrary.load(write(**{"1.0": VERSION, "1.1": VERSION}))

    with pytest.raises(UnknownPromptVersion, match=r"greet has no version '3'.*1\.0, 1\.1"):
        library.get("greet", "3")
    with pytest.raises(ConfigurationError, match=r"no prompt 'wave'.*prompts/wave/1\.0\.toml"):
        library.get("wave")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (VERSION + "temperature = 1\n", "temperature"),
        (VERSION.replace("max_tokens = 10", ""), "max_tokens"),
        (VERSION.replace("10", "0"), "max_tokens"),
        (VERSION.replace("10", '"ten"'), "max_tokens"),
        (VERSION + 'effort = "enormous"\n', "effort"),
        (VERSION.replace('"m"', '"  "'), "model"),
        ("model = \n", "not valid TOML"),
        (VERSION.replace("{{ text }}", "{{ text "), "template error"),
        (VERSION.replace("{{ output_schema }}", "{% nonsense %}"), "template error"),
    ],
)
def test_a_broken_file_is_one_line_with_its_name_and_what_is_wrong(
    write: Write, content: str, expected: str
) -> None:
    line = refusal(write(**{"1.0": content}))

    assert "greet/1.0" in line
    assert expected in line


def test_a_file_that_is_not_utf8_is_named(write: Write) -> None:
    folder = write(**{"1.0": VERSION})
    (folder / "greet" / "1.0.toml").write_bytes(b'model = "\xff"')

    assert "greet/1.0.toml is not valid TOML" in refusal(folder)


@pytest.mark.parametrize("name", ["v1", "1.0-beta", "latest", "1.", "１", "1.00"])
def test_a_file_name_that_is_no_version_is_refused(write: Write, name: str) -> None:
    assert "1.0.toml" in refusal(write(**{name: VERSION}))


def test_a_missing_folder_names_the_variable(tmp_path: Path) -> None:
    assert "CLAUDE_JOBS_PROMPTS_DIR" in refusal(tmp_path / "missing")


def test_a_variable_that_the_input_lacks_is_named_with_both_sides() -> None:
    with pytest.raises(ConfigurationError, match=r"greet/1\.0.*uses txt.*lacks.*has lang, text"):
        prompt(template="{{ txt }} {{ text }} {{ lang }}").check(frozenset({"text", "lang"}))


def test_a_field_that_the_template_ignores_is_named_with_both_sides() -> None:
    with pytest.raises(ConfigurationError, match=r"greet/1\.0.*has lang.*never uses.*uses text"):
        prompt().check(frozenset({"text", "lang"}))


def test_a_system_prompt_may_use_nothing_of_the_input() -> None:
    prompt(system="{{ output_schema }}").check(frozenset({"text"}))
    with pytest.raises(ConfigurationError, match=r"system prompt uses text.*output_schema only"):
        prompt(system="{{ text }}").check(frozenset({"text"}))


def test_an_input_is_never_executed_as_a_template() -> None:
    _, user = prompt().render({"text": "{{ 7 * 7 }} {% raw %}"}, "{}")

    assert user == "{{ 7 * 7 }} {% raw %}"


@pytest.mark.parametrize(
    "template",
    ["{{ text.__class__.__mro__ }}", "{{ text.format.__globals__ }}", "{{ items.append(1) }}"],
)
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    with pytest.raises(SecurityError):
        prompt(template=template).render({"text": "x", "items": []}, "{}")


def test_an_attribute_that_is_missing_is_an_error_and_not_an_empty_text() -> None:
    with pytest.raises(UndefinedError):
        prompt(template="{{ text.nonsense }}").render({"text": "x"}, "{}")


def test_the_hash_covers_what_reaches_claude_and_not_the_notes() -> None:
    assert prompt(notes="why").sha256 == prompt().sha256
    assert prompt(system="another").sha256 != prompt().sha256
    assert prompt(template="{{ text }}!").sha256 != prompt().sha256


def test_the_hash_does_not_depend_on_the_order_of_keys(write: Write) -> None:
    backwards = "\n".join(reversed(VERSION.strip().splitlines()))
    assert tomllib.loads(backwards) == tomllib.loads(VERSION)

    one, two = PromptLibrary.load(write(**{"1": VERSION, "2": backwards}))

    assert one.sha256 == two.sha256
