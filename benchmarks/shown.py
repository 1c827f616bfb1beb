"""A table as the terminal and the document both show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """A table; all columns but the first are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
