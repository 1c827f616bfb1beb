"""Keys to the HTTP gateway.

A key is 32 random bytes, so its SHA-256 is all that needs to be stored: there is nothing to guess,
and a slow hash, which is for passwords that people choose, would only slow down every request.
How long it takes to look a hash up says nothing about the keys that there are.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from worker.errors import InvalidInput
from worker.storage.models.services import SCOPES

#: As long as the longest name of a database role, which names a service too.
_SERVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that is valid now; `requests_per_minute` None: without a bound of its own."""

    id: UUID
    service: str
    name: str
    scopes: frozenset[str]
    requests_per_minute: int | None


def digest(key: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


_CREATE = text("""
INSERT INTO api_keys (service, name, prefix, sha256, scopes, requests_per_minute, created_by,
                      expires_at)
VALUES (:service, :name, :prefix, :sha256, :scopes, :requests_per_minute, :by, :expires_at)
RETURNING id
""")


def create_key(
    connection: Connection,
    service: str,
    *,
    by: str,
    name: str = "",
    scopes: Sequence[str] = SCOPES,
    requests_per_minute: int | None = None,
    expires_at: datetime | None = None,
) -> tuple[UUID, str]:
    """A new key of a service: its id, and the key itself, which is never to be seen again.

    Raises:
        InvalidInput: the service's name or a scope is none.
    """
    if not _SERVICE.fullmatch(service):
        raise InvalidInput(
            f"service {service!r}: a name has up to 63 letters, digits, and _ . - after the first"
        )
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidInput(f"scope {scope!r} is none of {', '.join(SCOPES)}")
    key = f"cj_{secrets.token_urlsafe(32)}"
    values = {
        "service": service,
        "name": name,
        "prefix": key[:_SHOWN],
        "sha256": digest(key),
        "scopes": sorted(set(scopes), key=SCOPES.index),
        "requests_per_minute": requests_per_minute,
        "by": by,
        "expires_at": expires_at,
    }
    return connection.execute(_CREATE, values).scalar_one(), key


_VALID = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"

_FIND = text(f"""
SELECT id, service, name, scopes, requests_per_minute FROM api_keys
WHERE sha256 = :sha256 AND {_VALID}
""")  # noqa: S608 – built from a constant


def find_key(connection: Connection, sha256: bytes) -> ApiKey | None:
    """The key with that hash, if it is valid: neither revoked nor expired."""
    row = connection.execute(_FIND, {"sha256": sha256}).one_or_none()
    if row is None:
        return None
    return ApiKey(row.id, row.service, row.name, frozenset(row.scopes), row.requests_per_minute)


_STILL_VALID = text(f"SELECT id FROM api_keys WHERE id = ANY(:ids) AND {_VALID}")  # noqa: S608


def valid_keys(connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Those of these keys that are valid: neither revoked nor expired."""
    return set(connection.execute(_STILL_VALID, {"ids": list(ids)}).scalars())


# Once a minute at most: a busy key must not make a row version with every request.
_TOUCH = text("""
UPDATE api_keys SET last_used_at = now()
WHERE id = :id AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
""")


def touch_key(connection: Connection, key_id: UUID) -> bool:
    """Note that a key was used; False when that was noted within the last minute."""
    return bool(connection.execute(_TOUCH, {"id": key_id}).rowcount)


_REVOKE = text("""
UPDATE api_keys SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL RETURNING service
""")


def revoke_key(connection: Connection, key_id: UUID) -> str | None:
    """End a key for good; returns its service, None when it had ended or never was."""
    service: str | None = connection.execute(_REVOKE, {"id": key_id}).scalar_one_or_none()
    return service


_LIST = text(f"""
SELECT id, service, name, prefix, scopes, requests_per_minute, created_by, created_at, expires_at,
       revoked_at, last_used_at, {_VALID} AS valid
FROM api_keys
WHERE cast(:service AS text) IS NULL OR service = :service
ORDER BY service, created_at
""")  # noqa: S608


def list_keys(connection: Connection, service: str | None = None) -> Sequence[RowMapping]:
    """All keys, valid or not, by service and age; without their hashes."""
    return connection.execute(_LIST, {"service": service}).mappings().all()
