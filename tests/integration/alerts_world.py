"""Calls of which some are worth an alert, and the look that finds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from worker.engine.alerts import AlertLoop
from worker.storage.engine import build_engine, transaction

BOUNDS = {"summarize_text": 5000, "analyze_document": 9000}


_INSERT = text("""
INSERT INTO usage (task, attempt, call, outcome, model, prompt, prompt_version, prompt_sha256,
                   output_tokens, cost_usd, complete, finished_at)
SELECT :task, 1, :call, :outcome, :model, :prompt, :version, 'x', tokens,
       CASE WHEN :priced THEN 0.001 END, :complete, CASE WHEN :ended THEN now() END
FROM unnest(cast(:lengths AS int[])) WITH ORDINALITY AS new (tokens, n) ORDER BY n
""")


def calls(connection: Connection, *lengths: int, **columns: Any) -> None:
    """Usage rows with so many output tokens each."""
    known = {
        "task": "summarize_text",
        "call": 1,
        "outcome": "ok",
        "model": "claude-haiku-5-5",
        "prompt": "summarize_text",
        "version": "1.0",
        "priced": True,
        "complete": True,
        "ended": True,
    }
    connection.execute(_INSERT, known | columns | {"lengths": list(lengths)})


def ended(*lengths: int, **columns: Any) -> None:
    with transaction() as connection:
        calls(connection, *lengths, **columns)


def look() -> None:
    """Look until there is nothing new."""
    loop = AlertLoop(BOUNDS)
    while loop.step() == 0:
        pass


def rows(statement: str = "SELECT * FROM alerts ORDER BY kind, subject, first_at") -> Sequence[Any]:
    with transaction() as connection:
        return connection.execute(text(statement)).mappings().all()


def execute(statement: str) -> None:
    with transaction() as connection:
        connection.execute(text(statement))


def uninspected() -> int:
    return int(rows("SELECT count(*) FROM usage WHERE NOT inspected")[0]["count"])


@pytest.fixture
def another(environment: dict[str, str]) -> Iterator[Engine]:
    """Connections besides those of this process's pool."""
    engine = build_engine(environment["DATABASE_URL"], pool_size=20)
    yield engine
    engine.dispose()
