"""Recorded replies: what Claude answered to each prompt version, kept beside the prompts.

`prompts/<name>/recorded/<version>.jsonl` holds a case a line: an input, and the body of the reply
to it as the API sent it. Read again by today's code – input model, template, reader, checks – they
show whether a change still accepts what was accepted when it was recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.claude.reply import MalformedReply, Reply, read_message
from worker.engine.checks import in_words, problems_of
from worker.engine.choose import Choice, Unrunnable
from worker.engine.judge import Accepted, Rejected, judge
from worker.engine.prepare import Preparer
from worker.engine.prompts import Prompt
from worker.engine.registry import AnyTask, Registry
from worker.errors import ConfigurationError, Failure

FOLDER = "recorded"
#: Fewer say little about a prompt.
LEAST_CASES = 3


class Recording(BaseModel):
    """One case: `reply` is the body of a 200 from `POST /v1/messages`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str = Field(min_length=1)
    input: dict[str, Any]
    reply: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What today's code says of a recording: `accepted`, or else `failure`."""

    where: str
    accepted: Accepted | None = None
    failure: Failure | None = None

    def __str__(self) -> str:
        """One line: prompt, version, case, and what was found."""
        if self.failure is not None:
            return f"{self.where}: {self.failure.message or self.failure.summary}"
        warnings = self.accepted.warnings if self.accepted else []
        noted = "; ".join(f"warning {each['check']}: {each['problem']}" for each in warnings)
        return f"{self.where}: {noted or 'accepted'}"


def choices(registry: Registry) -> Iterator[Choice]:
    """Every version of every task's prompt, with the model that it names."""
    for task in registry.values():
        for version in registry.prompts.versions(task.prompt):
            prompt = registry.prompts.get(task.prompt, version)
            yield Choice(task, prompt, prompt.file.model)


def path_of(folder: Path, prompt: Prompt) -> Path:
    """Where the recordings of a prompt version are; `folder` is the folder of prompts."""
    return folder / prompt.name / FOLDER / f"{prompt.version}.jsonl"


def load_recordings(folder: Path, prompt: Prompt) -> list[Recording]:
    """The recordings of a prompt version, in the order of its file.

    Raises:
        ConfigurationError: there are none or too few, or a line is not a recording; one line that
            names the file, and the command that makes it.
    """
    path = path_of(folder, prompt)
    where = f"prompts/{prompt.name}/{FOLDER}/{path.name}"
    command = f"python -m sandbox.record {prompt.name}"
    if not path.exists():
        raise ConfigurationError(
            f"prompt {prompt.name}/{prompt.version} has no recorded replies: run `{command}` and "
            f"commit {where}"
        )
    recordings: dict[str, Recording] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            recording = Recording.model_validate_json(line)
        except ValidationError as error:
            raise ConfigurationError(f"{where}:{number}: {in_words(problems_of(error))}") from None
        if recording.case in recordings:
            raise ConfigurationError(f"{where}:{number}: case {recording.case!r} is there twice")
        recordings[recording.case] = recording
    if len(recordings) < LEAST_CASES:
        raise ConfigurationError(
            f"{where} has {len(recordings)} cases, expected {LEAST_CASES} at least: run "
            f"`{command} --again`"
        )
    return list(recordings.values())


def save_recordings(folder: Path, prompt: Prompt, recordings: Iterable[Recording]) -> Path:
    """Write the recordings of a prompt version, a line each; returns the file's path."""
    path = path_of(folder, prompt)
    path.parent.mkdir(exist_ok=True)
    lines = (json.dumps(each.model_dump(), ensure_ascii=False) for each in recordings)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def replay(preparer: Preparer, choice: Choice, recordings: Sequence[Recording]) -> list[Replayed]:
    """Take each recording the way of a job: input model, template, reader, every check."""
    return [_replayed(preparer, choice, recording) for recording in recordings]


def _replayed(preparer: Preparer, choice: Choice, recording: Recording) -> Replayed:
    where = f"{choice.prompt.name}/{choice.prompt.version}, case {recording.case}"
    try:
        prepared = preparer.prepare_input(choice, recording.input)
        reply = _read(recording)
        return Replayed(where, accepted=_judged(choice.task, prepared.input, reply))
    except (Unrunnable, Rejected) as error:
        return Replayed(where, failure=error.failure)
    except MalformedReply as error:
        return Replayed(where, failure=Failure("broken_reply", "not a message", str(error)))


def _read(recording: Recording) -> Reply:
    return read_message(json.dumps(recording.reply).encode(), headers={}, latency_ms=0)


def _judged(task: AnyTask, given: BaseModel, reply: Reply) -> Accepted:
    return judge(reply, task.output, task.checks, given, task.warnings)
