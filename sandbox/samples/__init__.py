"""Real inputs for the shipped tasks, a JSON object a line; `{"$text": slug}` is a long text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent


def load_samples(task: str) -> list[dict[str, Any]]:
    """The sample inputs of a task, in the order of its file."""
    lines = (_FOLDER / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: _resolved(value) for name, value in json.loads(line).items()} for line in lines]


def _resolved(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"$text"}:
        path = _FOLDER / "texts" / f"{value['$text']}.txt"
        return path.read_text(encoding="utf-8").strip()
    return value
