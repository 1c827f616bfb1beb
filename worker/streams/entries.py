"""What a job's stream in Redis looks like.

The key is `claude-jobs:stream:<job id>`. Each entry has the fields `kind`, `attempt` and `text`:

    begin     a call's text begins; `text` says why, if it is not the job's first one
    delta     the next piece of the text
    retrying  what was written so far will not become the result; `text` says why
    done      the job has ended: how, and with what, is in Postgres

**An entry's id is `<usage id>-<number>`.** The usage row of a call is inserted by whoever holds the
claim, so its id grows with every call of a job, over all attempts, repairs and workers – which
`attempt` does not: a rescue gives its attempt back. Redis takes no id below a stream's last one. So
a worker that lost its lease and streams on is refused by Redis itself, once the next call has
begun; ids need no clock; and a piece that is missing shows as a gap in the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

PREFIX = "claude-jobs:stream:"

Kind = Literal["begin", "delta", "retrying", "done"]


class Position(NamedTuple):
    """A place in a stream: the call, and the number of the entry within it."""

    call: int
    number: int

    def __str__(self) -> str:
        return f"{self.call}-{self.number}"


#: Before every entry.
START = Position(0, 0)

_LARGEST = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, as it was written."""

    position: Position
    kind: Kind
    attempt: int
    text: str


def key_of(job_id: UUID | str) -> str:
    """The Redis key of a job's stream."""
    return f"{PREFIX}{job_id}"


def parse_position(text: str) -> Position | None:
    """The position that an id names, such as a client sends as `Last-Event-ID`; None for others."""
    call, dash, number = text.partition("-")
    if not (dash and all(part.isascii() and part.isdigit() for part in (call, number))):
        return None
    if len(text) > 41 or max(int(call), int(number)) > _LARGEST:
        return None
    return Position(int(call), int(number))


def decode(rows: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Entry]:
    """Entries as Redis returns them; what is none of ours is left out."""
    entries = []
    for raw_id, fields in rows:
        position = parse_position(raw_id.decode())
        match fields.get(b"kind"):
            case b"begin" | b"delta" | b"retrying" | b"done" as kind if position:
                attempt = fields.get(b"attempt", b"")
                entries.append(
                    Entry(
                        position,
                        kind.decode(),  # type: ignore[arg-type]
                        int(attempt) if attempt.isdigit() else 0,
                        fields.get(b"text", b"").decode(errors="replace"),
                    )
                )
    return entries
