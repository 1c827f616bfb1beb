"""The tasks there are, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """What producers need to know of a task; `max_input_bytes` is of JSON in UTF-8.

    A deadline that is more than `batch_deadline_hours` away puts a job into the batch lane.
    """

    name: str
    prompt: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]
    max_attempts: int
    max_input_bytes: int
    webhook_url: str | None = None
    batch_deadline_hours: float = 26.0


_STORE = text("""
INSERT INTO tasks (name, prompt, input_schema, output_schema, max_attempts, max_input_bytes,
                   webhook_url, batch_deadline_hours)
VALUES (:name, :prompt, cast(:input_schema AS jsonb), cast(:output_schema AS jsonb), :max_attempts,
        :max_input_bytes, :webhook_url, :batch_deadline_hours)
ON CONFLICT (name) DO UPDATE
SET prompt = excluded.prompt, input_schema = excluded.input_schema,
    output_schema = excluded.output_schema, max_attempts = excluded.max_attempts,
    max_input_bytes = excluded.max_input_bytes, webhook_url = excluded.webhook_url,
    batch_deadline_hours = excluded.batch_deadline_hours, seen_at = now()
""")


def store_tasks(connection: Connection, tasks: Sequence[KnownTask]) -> None:
    """Insert these tasks, or bring their rows up to date."""
    # In order: of two workers that start at once, one waits for the other, and neither for ever.
    rows = [
        asdict(task)
        | {
            "input_schema": json.dumps(task.input_schema),
            "output_schema": json.dumps(task.output_schema),
        }
        for task in sorted(tasks, key=lambda task: task.name)
    ]
    if rows:
        connection.execute(_STORE, rows)
