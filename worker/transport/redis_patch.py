"""Three cures for kombu's Redis transport, applied to the versions that need them.

**A worker that outlives Redis.** kombu 5.7.0: when the connection to Redis is lost,
`Channel._connparams` is asked for parameters by a channel whose connection has dropped its client
already, and reads `None.hostname`. The AttributeError ends the worker ("Unrecoverable error") if
some of its slots are busy: 6 times out of 6 with threads, as measured. Giving the parameters that
were used last survived 21 times out of 21. Reported in docs/upstream/kombu-connparams.md.

**One client a channel.** kombu builds a `redis.Redis` for every pipeline, although all of them
share the channel's connection pool: 13 % of a worker's CPU, as profiled. It is kept as long as the
pool is.

**One script call a message.** kombu keeps a received message in a hash and an index until it is
acknowledged, and takes a transaction of four commands for either: 15 % of a worker's CPU. Here one
call of a script puts a message there and removes those that were acknowledged meanwhile. So an
acknowledgement waits for the next message, for a moment at most; if its worker is killed just then,
the message comes again, as after a kill a moment earlier, and finds no job to claim.

Remove each once a kombu without the defect is required.
"""

from __future__ import annotations

import json
import time
from typing import Any

import kombu
import structlog
from kombu.asynchronous import get_event_loop
from kombu.transport import redis as transport
from kombu.transport import virtual

from worker.redis_script import Script

log = structlog.get_logger(__name__)

#: The versions in which the defect was seen and the cure was tested.
AFFECTED = {"5.7.0"}

#: How long an acknowledgement waits for a message to travel with (seconds).
_ACK_PAUSE = 0.02

#: KEYS: the index, the messages. ARGV: a message's tag ('' for no message), when it came and what
#: brings it back; then the tags of those that were acknowledged.
_KEEP = """
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
end
for i = 4, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('HDEL', KEYS[2], ARGV[i])
end
"""


def apply() -> bool:
    """Patch an affected kombu; returns whether it was one. A second call changes nothing."""
    if kombu.__version__ not in AFFECTED:
        log.debug("kombu is not patched", version=kombu.__version__)
        return False
    channel: Any = transport.Channel
    if not hasattr(channel._connparams, "patched"):
        _remember_parameters(channel)
        _keep_client(channel)
        _gather_acks(transport.QoS)
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


def _gather_acks(qos: Any) -> None:
    original, close = qos.ack, qos.restore_unacked_once
    in_memory: Any = virtual.QoS

    def append(self: Any, message: Any, delivery_tag: str) -> None:
        place = message.delivery_info["exchange"], message.delivery_info["routing_key"]
        _keep(self, delivery_tag, time.time(), json.dumps([message._raw, *place]))
        in_memory.append(self, message, delivery_tag)

    def ack(self: Any, delivery_tag: str) -> None:
        """Called by the thread of the event loop, as everything here."""
        loop: Any = get_event_loop()
        if loop is None:
            original(self, delivery_tag)
            return
        in_memory.ack(self, delivery_tag)  # the slot is free
        acked = self.__dict__.setdefault("_acked", [])
        acked.append(delivery_tag)
        if len(acked) == 1:
            loop.call_later(_ACK_PAUSE, _flush, self)

    def restore_unacked_once(self: Any, stderr: Any = None) -> None:
        _flush(self)
        if script := self.__dict__.pop("_script", None):
            script.close()
        close(self, stderr)

    qos.append, qos.ack, qos.restore_unacked_once = append, ack, restore_unacked_once


def _keep(qos: Any, *message: str | float) -> None:
    script = qos.__dict__.get("_script")
    if script is None:
        script = qos.__dict__["_script"] = Script(qos.channel.pool, _KEEP, keys=2)
    acked, qos.__dict__["_acked"] = qos.__dict__.get("_acked", []), []
    script.run([[qos.unacked_index_key, qos.unacked_key, *message, *acked]])


def _flush(qos: Any) -> None:
    if not qos.__dict__.get("_acked"):
        return
    try:
        _keep(qos, "", "", "")
    except (*qos.channel.connection_errors, OSError) as error:
        log.warning("messages not acknowledged: they will come again", error=repr(error))
