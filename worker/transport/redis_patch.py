"""Two cures for kombu's Redis transport, applied to the versions that need them.

**A worker that outlives Redis.** kombu 5.7.0: when the connection to Redis is lost,
`Channel._connparams` is asked for parameters by a channel whose connection has dropped its client
already, and reads `None.hostname`. The AttributeError ends the worker ("Unrecoverable error") if
some of its slots are busy: 6 times out of 6 with threads, as measured. Giving the parameters that
were used last survived 21 times out of 21. Reported in docs/upstream/kombu-connparams.md.

**One client a channel.** kombu builds a `redis.Redis` for every pipeline, although all of them
share the channel's connection pool: 13 % of a worker's CPU, as profiled. It is kept as long as the
pool is.

Remove each once a kombu without the defect is required.
"""

from __future__ import annotations

from typing import Any

import kombu
import structlog
from kombu.transport import redis as transport

log = structlog.get_logger(__name__)

#: The versions in which the defect was seen and the cure was tested.
AFFECTED = {"5.7.0"}


def apply() -> bool:
    """Patch an affected kombu; returns whether it was one. A second call changes nothing."""
    if kombu.__version__ not in AFFECTED:
        log.debug("kombu is not patched", version=kombu.__version__)
        return False
    channel: Any = transport.Channel
    if not hasattr(channel._connparams, "patched"):
        _remember_parameters(channel)
        _keep_client(channel)
    return True


def _remember_parameters(channel: Any) -> None:
    original = channel._connparams

    def _connparams(self: Any, asynchronous: bool = False) -> dict[str, Any]:
        remembered: dict[bool, dict[str, Any]] = self.__dict__.setdefault("_last_connparams", {})
        if self.connection.client is None and asynchronous in remembered:
            return dict(remembered[asynchronous])
        parameters: dict[str, Any] = original(self, asynchronous=asynchronous)
        remembered[asynchronous] = dict(parameters)
        return parameters

    _connparams.patched = True  # type: ignore[attr-defined]
    channel._connparams = _connparams


def _keep_client(channel: Any) -> None:
    original = channel._create_client

    def _create_client(self: Any, asynchronous: bool = False) -> Any:
        if asynchronous:
            return original(self, asynchronous=True)
        kept = self.__dict__.get("_kept_client")
        if kept is None or kept.connection_pool is not self.pool:
            kept = self.__dict__["_kept_client"] = original(self)
        return kept

    channel._create_client = _create_client
