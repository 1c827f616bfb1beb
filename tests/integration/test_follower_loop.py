"""The loop that looks after waiting jobs, among them such as it cannot judge."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, model_validator
from sqlalchemy import Engine, text

from worker.engine.followers import FollowerLoop
from worker.engine.registry import Registry, load_registry
from worker.settings import get_settings
from worker.storage.engine import transaction

#: In the order in which a look comes upon them.
UNLUCKY, SOUND = "a" * 64, "b" * 64

_INPUT = """jsonb_build_object('text', 'A text.', 'max_words', 20, 'audience', 'all')"""
_SERVABLE = text(f"""
WITH source AS (
    INSERT INTO jobs (task, state, input, finished_at)
    VALUES (:task, 'succeeded', {_INPUT}, now()) RETURNING id
)
INSERT INTO results (job_id, task, output, prompt, prompt_version, model, request_sha256)
SELECT id, :task, '{{}}', 'p', '1', 'm', :key FROM source
""")
_WAITING = text(f"INSERT INTO jobs (task, input, waits_for) VALUES (:task, {_INPUT}, :key)")
_STILL_WAITING = text("SELECT waits_for FROM jobs WHERE waits_for IS NOT NULL")


class Brittle(BaseModel):
    """An input model of a newer version, whose code fails on what was enqueued before."""

    @model_validator(mode="before")
    @classmethod
    def fail(cls, values: Any) -> Any:
        raise RuntimeError(values["text"])


@pytest.mark.parametrize("unlucky", ["brittle", "of another version"])
def test_a_task_that_cannot_be_looked_at_keeps_nobody_waiting(
    engine: Engine, producer: None, eventually: Callable[..., None], unlucky: str
) -> None:
    shipped = load_registry()
    brittle = copy.copy(shipped["summarize_text"])
    registry = Registry({**shipped, "brittle": brittle}, shipped.prompts)
    object.__setattr__(brittle, "input", Brittle)
    with transaction(engine) as connection:
        for task, key in ((unlucky, UNLUCKY), ("summarize_text", SOUND)):
            connection.execute(_SERVABLE, {"task": task, "key": key})
            connection.execute(_WAITING, {"task": task, "key": key})
    loop = FollowerLoop(get_settings().model_copy(update={"cache_seconds": 600.0}), registry)

    def waiting() -> list[str]:
        with transaction(engine) as connection:
            return list(connection.execute(_STILL_WAITING).scalars())

    loop.start()
    try:
        eventually(lambda: not waiting(), "somebody waits for ever", 20)
    finally:
        loop.stop()
