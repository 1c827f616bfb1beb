"""What can be said of prompt versions without asking Claude: the first of the layers of tests.

That templates and input models agree is checked whenever prompts are loaded. Here the rest: each
output model is one that the API takes, and what was recorded of a version is still accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.engine.choose import Choice, Unrunnable
from worker.engine.judge import Rejected
from worker.engine.prepare import Preparer
from worker.engine.recordings import (
    MalformedReply,
    Recording,
    Stale,
    choices,
    load_recordings,
    replay,
    require_fresh,
)
from worker.engine.registry import Registry
from worker.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Checked:
    """A version that passed, and how many recorded replies it has."""

    name: str
    recordings: int


def check_versions(registry: Registry, folder: Path) -> list[Checked]:
    """Check every version of every task's prompt, with the recordings in `folder`.

    Raises:
        ConfigurationError: an output model cannot be sent as a schema, or a recorded reply is
            refused by today's code; the message names the version and the case.
    """
    preparer = Preparer(registry)
    return [_checked(preparer, choice, folder) for choice in choices(registry)]


def _checked(preparer: Preparer, choice: Choice, folder: Path) -> Checked:
    prompt = choice.prompt
    recordings = load_recordings(folder, prompt)
    for recording in recordings.values():
        if problem := _problem(preparer, choice, recording):
            raise ConfigurationError(
                f"prompt {prompt.name}/{prompt.version}, recorded case {recording.case!r}: "
                f"{problem}"
            )
    return Checked(f"{prompt.name}/{prompt.version}", len(recordings))


def _problem(preparer: Preparer, choice: Choice, recording: Recording) -> str | None:
    try:
        require_fresh(recording, choice, recording.input)
        replay(preparer, choice, recording)
    except (Unrunnable, Rejected) as error:
        return error.failure.message or error.failure.summary
    except (MalformedReply, Stale) as error:
        return str(error)
    return None
