"""What a review is about: inputs from the shipped samples, from a file, or from recent jobs."""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from worker.engine.registry import AnyTask
from worker.engine.samples import read_samples
from worker.errors import ConfigurationError, InvalidInput
from worker.settings import PROJECT
from worker.storage.review_samples import NewSample, recent_inputs

#: Every job of a review has an idempotency key that begins like this.
KEY_PREFIX = "review:"

_SAMPLES = PROJECT / "sandbox" / "samples"


def from_samples(task: AnyTask, count: int) -> list[NewSample]:
    """`count` of the task's sample inputs, or all if there are fewer.

    They come from all over the file, as neighbours are often about the same text; asking for more
    adds to those that were chosen before.

    Raises:
        ConfigurationError: the task has no samples here.
        InvalidInput: one of them does not fit the task.
    """
    path = _SAMPLES / f"{task.name}.jsonl"
    if not path.exists():
        raise ConfigurationError(
            f"task {task.name} has no sample inputs here ({path}): name a file with --inputs "
            "FILE.jsonl, or take those of recent jobs with --from-jobs N"
        )
    samples = read_samples(path)
    random.Random(task.name).shuffle(samples)  # noqa: S311 – the same order every time
    return _new(task, "sample", samples[:count])


def from_file(task: AnyTask, path: Path, count: int | None) -> list[NewSample]:
    """The first `count` inputs of a JSON Lines file (None: all).

    Raises:
        InvalidInput: the file cannot be read, or a line does not fit the task.
    """
    samples = read_samples(path)
    if not samples:
        raise InvalidInput(f"{path} holds no inputs")
    return _new(task, "file", samples[:count])


def from_jobs(connection: Connection, task: AnyTask, count: int) -> list[NewSample]:
    """Inputs of `count` recent jobs that succeeded, or of all if there are fewer.

    Raises:
        InvalidInput: there are none.
    """
    found = recent_inputs(connection, task.name, besides=KEY_PREFIX, limit=count)
    if not found:
        raise InvalidInput(f"no job of {task.name} has succeeded yet: there is no input to take")
    return _new(task, "job", found)


def digest(*parts: str) -> str:
    """A name for these texts, in this order."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _new(task: AnyTask, source: str, inputs: Iterable[Mapping[str, Any]]) -> list[NewSample]:
    chosen: dict[str, NewSample] = {}
    for number, values in enumerate(inputs, start=1):
        try:
            parsed = task.parse_input(values)
        except InvalidInput as error:
            raise InvalidInput(f"input {number}: {error}") from None
        sha256 = digest(parsed.model_dump_json())
        chosen.setdefault(sha256, NewSample(source, parsed.model_dump(mode="json"), sha256, False))
    return with_sides(list(chosen.values()))


def with_sides(samples: Sequence[NewSample]) -> list[NewSample]:
    """The samples with the candidate on the left in half of them, by chance."""
    left = [number % 2 == 0 for number in range(len(samples))]
    secrets.SystemRandom().shuffle(left)
    return [
        NewSample(each.source, each.input, each.input_sha256, candidate_left)
        for each, candidate_left in zip(samples, left, strict=True)
    ]
