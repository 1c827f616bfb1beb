"""A review of two samples, and its verdicts."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from tests.reviewing import BETTER, WORSE, sample, store, succeeded
from worker.storage.engine import transaction
from worker.storage.reviews import Review


@pytest.fixture
def stored(producer: None) -> Review:
    """A review of two samples."""
    return store(
        [
            sample(succeeded(BETTER), succeeded(WORSE), text="One."),
            sample(succeeded(BETTER), succeeded(WORSE), text="Two.", number=2),
        ]
    )


def verdicts() -> list[Any]:
    with transaction() as connection:
        found = connection.execute(text("SELECT * FROM prompt_verdicts ORDER BY id"))
        return list(found.mappings())
