"""Signatures of Standard Webhooks (https://www.standardwebhooks.com), version 1: HMAC-SHA256.

Several secrets make several signatures, so that a receiver which knows the old one or the new one
is content while they are exchanged. The receiver of a service's jobs has a secret of its own, which
is derived from ours: it must not be able to sign for another service's.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence

PREFIX = "whsec_"


def secrets_for(secrets: str, service: str | None) -> list[str]:
    """What receivers verify with, newest first, as `whsec_…`.

    `secrets` is the setting; jobs of no service are signed with the secrets themselves.
    """
    if service is None:
        return secrets.split()
    name = f"claude-jobs webhooks of {service}".encode()
    return [
        PREFIX + b64encode(hmac.digest(_key(secret), name, "sha256")).decode()
        for secret in secrets.split()
    ]


def signatures(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature a secret, separated by spaces."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(_key(secret), signed, "sha256") for secret in secrets)
    return " ".join(f"v1,{b64encode(digest).decode()}" for digest in digests)


def _key(secret: str) -> bytes:
    return b64decode(secret.removeprefix(PREFIX))
