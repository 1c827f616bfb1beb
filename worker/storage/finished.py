"""Saying that jobs have ended, for whoever listens on `job_finished`.

It is a hint: it says nothing but an id, it is lost on those who do not listen, and a worker that
dies takes what it had not said with it. Listen first, then look at the job, and look now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text

CHANNEL = "job_finished"

_SAY = text(f"SELECT pg_notify('{CHANNEL}', id) FROM unnest(cast(:ids AS text[])) AS id")  # noqa: S608

_NOT_DURABLE = text("SET LOCAL synchronous_commit = off")


def say_finished(connection: Connection, ids: Sequence[UUID]) -> None:
    """Notify of these jobs when the caller's transaction commits."""
    if ids:
        connection.execute(_SAY, {"ids": [str(job_id) for job_id in ids]})


def say_finished_aside(connection: Connection, ids: Sequence[UUID]) -> None:
    """The same in a transaction that does nothing else, which need not wait for the disk.

    Commits with a NOTIFY come one after the other, each with its write to the disk in between.
    """
    connection.execute(_NOT_DURABLE)
    say_finished(connection, ids)
