"""What differs between two versions of a prompt, for reading in a terminal.

A paragraph of a prompt is one long line, so a changed line is shown word by word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher, unified_diff

from rich.text import Text

from worker.engine.prompts import Prompt

_WORD = re.compile(r"\w+|\s+|[^\w\s]")
#: Lines that have less in common are shown as one that went and another that came.
_LEAST_SIMILARITY = 0.4
_SETTINGS = ("model", "max_tokens", "max_tokens_ceiling", "fallback_model", "effort", "cache")
_TEXTS = ("system", "template")


def difference(old: Prompt, new: Prompt) -> Iterator[Text]:
    """Changed settings, then changed lines with their surroundings; nothing of the notes."""
    for key in _SETTINGS:
        before, after = getattr(old.file, key), getattr(new.file, key)
        if before != after:
            yield Text.assemble(
                (key, "bold"), ": ", _shown(before, "red"), " → ", _shown(after, "green")
            )
    for key in _TEXTS:
        before, after = getattr(old.file, key), getattr(new.file, key)
        if before != after:
            yield Text(key, "bold")
            yield from _changed_lines(before.splitlines(), after.splitlines())


def _shown(value: object, colour: str) -> tuple[str, str]:
    return ("unset" if value is None else str(value), colour)


def _changed_lines(before: list[str], after: list[str]) -> Iterator[Text]:
    removed: list[str] = []
    added: list[str] = []
    for line in list(unified_diff(before, after, n=1, lineterm=""))[2:]:
        match line[0]:
            case "-":
                removed.append(line[1:])
            case "+":
                added.append(line[1:])
            case _:
                yield from _block(removed, added)
                removed, added = [], []
                yield Text(line, "cyan" if line[0] == "@" else "dim")
    yield from _block(removed, added)


def _block(removed: list[str], added: list[str]) -> Iterator[Text]:
    if len(removed) == len(added):
        for old, new in zip(removed, added, strict=True):
            yield from _pair(old, new)
    else:
        yield from (Text(f"-{line}", "red") for line in removed)
        yield from (Text(f"+{line}", "green") for line in added)


def _pair(old: str, new: str) -> Iterator[Text]:
    """The two lines, with the words marked that differ."""
    words, other = _WORD.findall(old), _WORD.findall(new)
    matcher = SequenceMatcher(None, words, other, autojunk=False)
    alike = matcher.ratio() >= _LEAST_SIMILARITY
    before, after = Text("-", "red"), Text("+", "green")
    for tag, a, b, c, d in matcher.get_opcodes():
        mark = " reverse" if alike and tag != "equal" else ""
        before.append("".join(words[a:b]), f"red{mark}")
        after.append("".join(other[c:d]), f"green{mark}")
    yield before
    yield after
