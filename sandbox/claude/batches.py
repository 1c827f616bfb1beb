"""Message batches: what becomes of each request, when, and what it costs.

A batch is processed on a clock of its own, item by item, so that one that is cancelled or expires
halfway has both kinds of items. As the API says, its counts stay at `processing` until all of it
has ended, and the results come in no order.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from sandbox.claude.batchchecks import Item
from sandbox.claude.batchclock import Clock, timestamp
from sandbox.claude.errors import ApiError, error_body
from sandbox.claude.faults import Fault
from sandbox.claude.messages import message_body
from sandbox.claude.models import MODELS
from sandbox.claude.promptcache import CachePlan
from sandbox.claude.tokens import Usage
from sandbox.claude.understand import understood
from sandbox.claude.validate import MessageRequest

if TYPE_CHECKING:
    from sandbox.claude.server import Server

HOUR = 3600.0
EXPIRES_AFTER = 24 * HOUR
ARCHIVED_AFTER = 29 * 24 * HOUR
_KINDS = ("processing", "succeeded", "errored", "canceled", "expired")
#: Items are processed so many at a time before somebody else gets a turn.
_TURN = 10


@dataclass(slots=True)
class Batch:
    """One batch. Times are Unix seconds by the batches' clock."""

    id: str
    number: int
    items: Sequence[Item]
    created_at: float
    betas: frozenset[str]
    cancel_initiated_at: float | None = None
    ended_at: float | None = None
    deleted: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    #: As the results file has them: shuffled once the batch has ended.
    lines: list[bytes] = field(default_factory=list)

    @property
    def expires_at(self) -> float:
        return self.created_at + EXPIRES_AFTER

    @property
    def archived_at(self) -> float:
        return self.created_at + ARCHIVED_AFTER

    def as_json(self, now: float, url: str) -> dict[str, object]:
        """The API's `message_batch`; `url` is where the API is."""
        ended, archived = self.ended_at is not None, now >= self.archived_at
        status = "ended" if ended else "canceling" if self.cancel_initiated_at else "in_progress"
        counts = self.counts if ended else {"processing": len(self.items)}
        results = f"{url}/v1/messages/batches/{self.id}/results"
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": {kind: counts.get(kind, 0) for kind in _KINDS},
            "created_at": timestamp(self.created_at),
            "expires_at": timestamp(self.expires_at),
            "ended_at": timestamp(self.ended_at),
            "cancel_initiated_at": timestamp(self.cancel_initiated_at),
            "archived_at": timestamp(self.archived_at) if archived else None,
            "results_url": results if ended and not archived else None,
        }


class Batches:
    """All batches of the account, the newest last."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.clock = Clock(server.config.batch_speed)
        self._batches: dict[str, Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._created = 0

    def create(self, items: Sequence[Item], betas: frozenset[str]) -> Batch:
        """Take a batch in; its processing begins at once."""
        self._created += 1
        id_ = f"msgbatch_{self._server.run}{self._created:08x}"
        batch = Batch(id_, self._created, items, self.clock.now(), betas)
        self._batches[id_] = batch
        task = asyncio.get_running_loop().create_task(self._process(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return batch

    def find(self, id_: str) -> Batch:
        """The batch of this id. Raises a 404."""
        batch = self._batches.get(id_)
        if batch is None or batch.deleted:
            raise ApiError(404, f"Message batch with id '{id_}' not found.")
        return batch

    def page(
        self, limit: int, after_id: str | None, before_id: str | None
    ) -> tuple[list[Batch], bool]:
        """So many batches, the newest first, and whether there are more in that direction."""
        newest_first = [each for each in reversed(self._batches.values()) if not each.deleted]
        if before_id is not None:
            edge = self.find(before_id).number
            later = [each for each in newest_first if each.number > edge]
            return later[-limit:], len(later) > limit
        if after_id is not None:
            edge = self.find(after_id).number
            newest_first = [each for each in newest_first if each.number < edge]
        return newest_first[:limit], len(newest_first) > limit

    def cancel(self, batch: Batch) -> None:
        """Begin to cancel; what was processed stays. Raises a 400 once it has ended."""
        if batch.ended_at is not None:
            raise ApiError(400, f"Batch {batch.id} has ended and cannot be canceled.")
        batch.cancel_initiated_at = batch.cancel_initiated_at or self.clock.now()
        self.clock.wake()

    def delete(self, batch: Batch) -> None:
        """Remove it. Raises a 400 while it is processed."""
        if batch.ended_at is None:
            raise ApiError(400, f"Batch {batch.id} cannot be deleted while it is in progress.")
        batch.deleted = True

    def results(self, batch: Batch) -> Sequence[bytes]:
        """The lines of its results. Raises a 404 before it has ended, and when they are gone."""
        if batch.ended_at is None:
            raise ApiError(404, f"Batch {batch.id} has no results yet.")
        if self.clock.now() >= batch.archived_at:
            raise ApiError(404, f"The results of batch {batch.id} are no longer available.")
        return batch.lines

    def clear(self) -> None:
        """Forget all batches, leave those under way unfinished, and set the clock right."""
        for task in self._tasks:
            task.cancel()
        self._batches.clear()
        self.clock.reset()

    def overview(self) -> list[dict[str, object]]:
        """What tests look at, the oldest first, deleted ones included."""
        now = self.clock.now()
        return [
            each.as_json(now, "")
            | {"custom_ids": [item.custom_id for item in each.items], "deleted": each.deleted}
            for each in self._batches.values()
        ]

    async def _process(self, batch: Batch) -> None:
        seconds, total = self._server.config.batch_seconds, len(batch.items)
        items = iter(batch.items)
        done = 0
        while done < total and batch.cancel_initiated_at is None:
            due = batch.created_at + seconds * (done + 1) / total
            if self.clock.now() >= batch.expires_at:
                break
            if self.clock.now() < due:
                await self.clock.nap(min(due, batch.expires_at))
                continue
            for item in islice(items, _TURN if seconds == 0 else 1):
                self._finish(batch, item.custom_id, self._result(batch, item))
                done += 1
            await asyncio.sleep(0)
        left = "canceled" if batch.cancel_initiated_at else "expired"
        for item in items:
            self._finish(batch, item.custom_id, {"type": left})
        random.Random(batch.id).shuffle(batch.lines)
        batch.ended_at = self.clock.now()

    def _finish(self, batch: Batch, custom_id: str, result: dict[str, Any]) -> None:
        batch.counts[result["type"]] += 1
        line = {"custom_id": custom_id, "result": result}
        batch.lines.append(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def _result(self, batch: Batch, item: Item) -> dict[str, Any]:
        sha256 = hashlib.sha256(item.params).hexdigest()
        entry = self._server.ledger.open(self._server.next_request_id())
        entry.batch_id, entry.custom_id, entry.body_sha256 = batch.id, item.custom_id, sha256
        outcome = "error"
        try:
            message, segments, tokens = understood(item.params, batch.betas)
            if message.stream:
                raise ApiError(400, "stream: Streaming is not supported in a batch")
            entry.model, entry.tag = message.model, message.tag
            fault = self._server.faults.strike(item.params, sha256, stream=False, on="batch_item")
            if fault is not None:
                entry.fault = outcome = fault.name
                if fault.result is not None:
                    return {"type": fault.result}
                if fault.status is not None:
                    raise ApiError(fault.status, fault.message, error_code=fault.error_code)
            else:
                outcome = "ok"
            plan = self._plan(message, segments, tokens)
            body = self._generate(message, segments, plan, entry, fault)
            return {"type": "succeeded", "message": json.loads(body)}
        except ApiError as error:
            entry.status = error.status
            body_ = error_body(
                error.status, error.message, entry.request_id, error_code=error.error_code
            )
            return {"type": "errored", "error": body_}
        finally:
            self._server.ledger.close(entry, outcome)

    def _plan(self, message: MessageRequest, segments: Sequence[Any], tokens: int) -> CachePlan:
        if any(segment.ttl for segment in segments):
            return self._server.cache.plan(message.model, MODELS[message.model], segments)
        return CachePlan(Usage(input_tokens=tokens))

    def _generate(
        self,
        message: MessageRequest,
        segments: Sequence[Any],
        plan: CachePlan,
        entry: Any,
        fault: Fault | None,
    ) -> bytes:
        server = self._server
        thinking = server.config.thinking_tokens if message.thinks else 0
        reply = server.writer.reply(message, segments, thinking_tokens=thinking, fault=fault)
        server.cache.commit(plan, ready_in=0.0)
        usage = replace(
            plan.usage, output_tokens=reply.output_tokens, thinking_tokens=reply.thinking_tokens
        )
        entry.status, entry.delivered = 200, True
        server.ledger.bill(entry, usage)
        return message_body(
            reply,
            message_id=f"msg_{entry.request_id.removeprefix('req_')}",
            model=message.model,
            usage=usage,
            service_tier="batch",
        )


def pieces(lines: Sequence[bytes], size: int = 65536) -> Iterator[bytes]:
    """The lines in chunks of about `size` bytes."""
    chunk: list[bytes] = []
    length = 0
    for line in lines:
        chunk.append(line)
        length += len(line)
        if length >= size:
            yield b"".join(chunk)
            chunk, length = [], 0
    if chunk:
        yield b"".join(chunk)
