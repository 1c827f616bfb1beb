"""Sample inputs: a JSON object a line, in which `{"$text": slug}` stands for a file of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from worker.errors import InvalidInput


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The inputs in a JSON Lines file, in order; `texts/<slug>.txt` beside it holds long texts.

    Raises:
        InvalidInput: the file, or a text that it names, cannot be read, or a line is no object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from None
    return [
        _parsed(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()
    ]


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}:{number}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidInput(f"{path}:{number}: not a JSON object with the task's fields")
    return {name: _resolved(path, number, value) for name, value in values.items()}


def _resolved(path: Path, number: int, value: Any) -> Any:
    if not (isinstance(value, dict) and set(value) == {"$text"}):
        return value
    text = path.parent / "texts" / f"{Path(str(value['$text'])).name}.txt"
    try:
        return text.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}:{number}: cannot read {text}: {error}") from None
