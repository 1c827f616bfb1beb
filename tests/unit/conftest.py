"""No servers here: settings that lead nowhere, and no file of a running sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.settings import get_settings


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Valid settings for servers that do not exist."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "postgresql://unit:hunter2@127.0.0.1:9/none")
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@127.0.0.1:9/0")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()
