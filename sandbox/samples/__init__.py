"""Real inputs for the shipped tasks, a JSON object a line; `{"$text": slug}` is a long text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from worker.engine.samples import read_samples

FOLDER = Path(__file__).resolve().parent


def sampled(tasks: Iterable[str]) -> list[str]:
    """Those of `tasks` that have samples, in order."""
    return sorted(task for task in tasks if (FOLDER / f"{task}.jsonl").exists())


def load_samples(task: str) -> list[dict[str, Any]]:
    """The sample inputs of a task, in the order of its file.

    Raises:
        FileNotFoundError: the task has none.
    """
    path = FOLDER / f"{task}.jsonl"
    if not path.exists():
        raise FileNotFoundError(path)
    return read_samples(path)
