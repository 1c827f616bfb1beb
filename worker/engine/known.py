"""Telling the database which tasks there are, for producers that cannot import them."""

from __future__ import annotations

from sqlalchemy import Connection

from worker.engine.registry import Registry
from worker.settings import get_settings
from worker.storage.tasks import KnownTask, store_tasks


def register_tasks(connection: Connection, registry: Registry) -> None:
    """Leave what SQL and HTTP need to know of each task in `tasks`.

    What the process that started last has stands there. A task that the code no longer has stays:
    during a deployment other workers still run it, and afterwards its jobs fail as `unknown_task`.
    """
    settings = get_settings()
    store_tasks(
        connection,
        [
            KnownTask(
                name=task.name,
                prompt=task.prompt,
                input_schema=task.input_schema,
                output_schema=task.output_schema,
                max_attempts=task.max_attempts,
                max_input_bytes=settings.max_input_bytes,
                webhook_url=task.webhook_url,
                batch_deadline_hours=settings.batch_deadline_hours,
            )
            for task in registry.values()
        ],
    )
