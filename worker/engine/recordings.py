"""Recorded replies: what Claude answered to the cases of each prompt version.

`prompts/<name>/recorded/<version>.jsonl` holds a case a line: its input, the hash of the prompt's
content that was asked, and the reply as the body of a message. Read again by today's code – input
model, template, reader, checks – they show whether a change still accepts what was accepted when
it was recorded, without a network. `claude-jobs prompts test NAME --live` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.claude.reply import MalformedReply, Reply, read_message
from worker.engine.checks import in_words, problems_of
from worker.engine.choose import Choice
from worker.engine.judge import Accepted, judge
from worker.engine.prepare import Preparer
from worker.engine.prompts import Prompt
from worker.engine.registry import Registry
from worker.errors import ConfigurationError, InvalidInput

FOLDER = "recorded"


class Recording(BaseModel):
    """One case. `reply` is the body of a 200 from `POST /v1/messages`.

    What comes from a job is built from what it left: its output is the text, the tokens and the
    model are those of the call that brought it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str = Field(min_length=1)
    prompt_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    input: dict[str, Any]
    reply: dict[str, Any]


class Stale(Exception):
    """A recording is no answer to what would be asked today."""


def choices(registry: Registry) -> Iterator[Choice]:
    """Every version of every task's prompt, with the model that it names."""
    for task in registry.values():
        for version in registry.prompts.versions(task.prompt):
            prompt = registry.prompts.get(task.prompt, version)
            yield Choice(task, prompt, prompt.file.model)


def path_of(folder: Path, prompt: Prompt) -> Path:
    """Where the recordings of a prompt version are; `folder` is the folder of prompts."""
    return folder / prompt.name / FOLDER / f"{prompt.version}.jsonl"


def load_recordings(folder: Path, prompt: Prompt) -> dict[str, Recording]:
    """The recordings of a prompt version by case, in the order of its file; empty without one.

    Raises:
        ConfigurationError: a line is not a recording; one line that names the file and its own.
    """
    path = path_of(folder, prompt)
    where = f"prompts/{prompt.name}/{FOLDER}/{path.name}"
    recordings: dict[str, Recording] = {}
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            recording = Recording.model_validate_json(line)
        except ValidationError as error:
            raise ConfigurationError(f"{where}:{number}: {in_words(problems_of(error))}") from None
        if recording.case in recordings:
            raise ConfigurationError(f"{where}:{number}: case {recording.case!r} is there twice")
        recordings[recording.case] = recording
    return recordings


def save_recordings(folder: Path, prompt: Prompt, recordings: Iterable[Recording]) -> Path:
    """Write the recordings of a prompt version, a line each; returns the file's path."""
    path = path_of(folder, prompt)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(each.model_dump(), ensure_ascii=False) for each in recordings)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def replay(
    preparer: Preparer, choice: Choice, recording: Recording, *, checks: bool = True
) -> tuple[Reply, Accepted]:
    """Take a recording the way of a job: input model, template, reader, every check.

    Args:
        preparer: has the task's schema.
        choice: the task, and the prompt version that is asked.
        recording: an answer of that version.
        checks: whether the task's checks look at it; if not, that is left to the caller.

    Raises:
        Unrunnable: the input does not fit, or the template fails on it.
        Rejected: the reply would not become a result.
        MalformedReply: it is no message.
    """
    prepared = preparer.prepare_input(choice, recording.input)
    reply = read_message(json.dumps(recording.reply).encode(), headers={}, latency_ms=0)
    task = choice.task
    applied = task.checks if checks else ()
    return reply, judge(reply, task.output, applied, prepared.input, task.warnings)


def require_fresh(recording: Recording, choice: Choice, values: dict[str, Any]) -> None:
    """Check that a recording answers this input, asked by this content of the prompt.

    Raises:
        Stale: it does not; the message says what has changed since.
    """
    if recording.prompt_sha256 != choice.prompt.sha256:
        raise Stale("the prompt version was edited since this reply was recorded")
    try:
        same = choice.task.parse_input(recording.input) == choice.task.parse_input(values)
    except InvalidInput as error:
        raise Stale(f"the recorded input does not fit any more: {error}") from None
    if not same:
        raise Stale("the input was changed since this reply was recorded")


__all__ = [
    "FOLDER",
    "MalformedReply",
    "Recording",
    "Stale",
    "choices",
    "load_recordings",
    "path_of",
    "replay",
    "require_fresh",
    "save_recordings",
]
