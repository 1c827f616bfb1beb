"""A Message Batch that is being put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic_core import to_json

#: Around each request, with its custom id.
_OVERHEAD = 120


def custom_id(batch_id: UUID, usage_id: int) -> str:
    """What a request is called within its batch: it names both, in 52 characters at most."""
    return f"{batch_id.hex}-{usage_id}"


def usage_of(name: str, batch_id: UUID) -> int | None:
    """The usage row that a custom id names; None if the request is of another batch."""
    owner, _, number = name.partition("-")
    is_number = number.isascii() and number.isdecimal() and len(number) < 19
    return int(number) if owner == batch_id.hex and is_number else None


@dataclass(slots=True)
class Draft:
    """The requests of a batch so far, as JSON; `keeper` is who may send it."""

    id: UUID
    model: str
    keeper: UUID
    requests: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, usage_id: int, parameters: bytes) -> None:
        """Add the request of a call; `parameters` are those of `messages.create`, as JSON."""
        name = custom_id(self.id, usage_id).encode()
        self.requests.append(b'{"custom_id":"' + name + b'","params":' + parameters + b"}")
        self.size += len(parameters) + _OVERHEAD

    def has_room_for(self, parameters: bytes, *, most: int, most_bytes: int) -> bool:
        """Whether another request keeps within these limits; an empty batch takes any."""
        if not self.requests:
            return True
        size = self.size + len(parameters) + _OVERHEAD
        return len(self.requests) < most and size <= most_bytes


def as_parameters(parameters: dict[str, Any]) -> bytes:
    """Parameters as `Draft.add` takes them."""
    return to_json(parameters)
