"""Deleting what has been kept for long enough, a batch at a time."""

from __future__ import annotations

from sqlalchemy import TextClause, text


def delete_old(table: str, since: str, condition: str = "true") -> TextClause:
    """A statement that deletes the oldest `:limit` rows older than `:older_than` seconds.

    It waits for nobody: rows that somebody else has locked are left for the next time.

    Args:
        table: one with an `id`. Like the others it becomes SQL as it is.
        since: the column that says since when; an index on it must serve the condition, too.
        condition: of the rows that may be deleted.
    """
    return text(f"""
    DELETE FROM {table} WHERE id IN (
        SELECT id FROM {table}
        WHERE {condition} AND {since} < now() - make_interval(secs => :older_than)
        ORDER BY {since}
        LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
    """)  # noqa: S608 – built from constants
