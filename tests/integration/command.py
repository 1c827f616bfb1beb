"""The `claude-jobs` command, called in this process: much faster than starting Python."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from worker.cli import main
from worker.engine.prompts import get_prompts
from worker.engine.registry import load_registry
from worker.settings import get_settings
from worker.storage.engine import get_engine

CACHES = (get_settings, get_engine, get_prompts, load_registry)

#: The installed script.
SCRIPT = str(Path(sys.executable).with_name("claude-jobs"))
#: The input of a summary.
GOOD = {"text": "The quick brown fox.", "max_words": 50, "audience": "everybody"}

#: Runs a query on the fresh system's database.
Rows = Callable[[str], list[Any]]


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a failure."""
        assert self.code == 1, self
        assert self.err.startswith("claude-jobs: "), self
        assert self.err.count("\n") == 1, self
        assert self.out == "", self
        return self.err.rstrip("\n")


class Run:
    """Runs `claude-jobs …` in this process."""

    def __init__(
        self,
        environment: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.environment = environment
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object, stdin: bytes = b"", **variables: str) -> Result:
        for cache in CACHES:
            cache.cache_clear()
        self._capsys.readouterr()
        with self._monkeypatch.context() as patch:
            for name, value in (self.environment | variables).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["claude-jobs", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            try:
                with pytest.raises(SystemExit) as ended:
                    main()
            finally:
                if get_engine.cache_info().currsize:
                    get_engine().dispose()
        for cache in CACHES:
            cache.cache_clear()
        return Result(int(ended.value.code or 0), *self._capsys.readouterr())


def fields(**values: object) -> list[str]:
    """`-i key=value …` for a summary, with some fields changed."""
    return [part for k, v in (GOOD | values).items() for part in ("-i", f"{k}={v}")]


def json_file(folder: Path, content: object) -> Path:
    path = folder / "input.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path
