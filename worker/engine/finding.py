"""Something that a look at ended calls has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from worker.storage import alerts
from worker.storage.alerts import Raised


@dataclass(frozen=True, slots=True)
class Finding:
    """An alert to be raised; `count` is how many calls gave the reason."""

    kind: str
    subject: str
    message: str
    details: dict[str, Any]
    count: int = 1
    repeat_seconds: float = alerts.REPEAT_SECONDS

    def put(self, connection: Connection) -> Raised:
        """Raise it."""
        return alerts.raise_alert(
            connection,
            self.kind,
            self.subject,
            self.message,
            self.details,
            count=self.count,
            repeat_seconds=self.repeat_seconds,
        )
