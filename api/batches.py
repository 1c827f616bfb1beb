"""Many jobs in one request, and in one INSERT."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from time import perf_counter
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.access import EnqueueKey
from api.apart import MOST_JOBS, each_job
from api.body import ENVELOPE_BYTES, from_json, read_body
from api.context import Context, context
from api.enqueueing import conflict, header_key, parse_named
from api.jobs import ASIDE_BYTES, IdempotencyKey, json_response
from api.openapi import answers, body_of
from api.pins import Pin, pin_of, unknown_pins
from api.problems import Problem, from_exception
from api.resources import KEY_LENGTH
from worker.errors import ClaudeJobsError
from worker.settings import get_settings
from worker.storage.api_keys import ApiKey
from worker.storage.enqueue import Inserted, NewJob, insert_each

#: Of one service: one is read while another is inserted.
AT_ONCE = 2
#: For how long the loop may be busy with batches before it looks after other requests (seconds).
_SLICE_SECONDS = 0.005

#: The problem with a job, as its client is told.
_Refusal = dict[str, Any]

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.post(
    "/jobs/batch",
    operation_id="enqueue_batch",
    summary=f"Enqueue up to {MOST_JOBS:,} jobs",
    responses=answers({200: "BatchOutcome"}, 400, 413, 415, 422),
    openapi_extra=body_of("Batch"),
)
async def enqueue_batch(
    request: Request, key: EnqueueKey, idempotency_key: IdempotencyKey = None
) -> Response:
    """What became of each: its id, or the problem with it; one that is wrong stops no other.

    With an Idempotency-Key of `K`, the job at index N has the key `K:N` unless it has its own. So a
    batch whose answer was lost can be sent again as it is.
    """
    here, given = context(request), header_key(idempotency_key)
    if given is not None and len(given) > KEY_LENGTH - len(f":{MOST_JOBS}"):
        raise Problem(422, "invalid-input", "A batch's Idempotency-Key has 249 characters at most.")
    async with here.batches.one(key.service):
        body = await read_body(request, get_settings().api_batch_bytes)
        return await _insert(here, await _parse_all(here, key, body, given))


async def _parse_all(
    here: Context, key: ApiKey, body: bytes, given: str | None
) -> list[NewJob | _Refusal]:
    """The jobs of a body, parsed in slices of the loop's time: one slice of any batch a turn.

    Not in a thread: it and the loop would fight for the interpreter, and the loop, which asks for
    it anew with every event, would wait five milliseconds each time.
    """
    parsed: list[NewJob | _Refusal] = []
    texts = each_job(body)

    async def parse_some() -> bool:
        until = perf_counter() + _SLICE_SECONDS
        for text in texts:
            if text is not None:
                parse = partial(_parse, here, key, text, len(parsed), given)
                large = len(text) > ASIDE_BYTES
                parsed.append(await here.database.aside(parse) if large else parse())
            if perf_counter() >= until:
                return True
        return False

    more = True
    while more:
        async with here.slices:
            more = await parse_some()
            await asyncio.sleep(0)
    return parsed


def _parse(
    here: Context, key: ApiKey, text: bytes, index: int, given: str | None
) -> NewJob | _Refusal:
    """One job; raises a Problem if its text is no JSON, and so the whole body is none."""
    try:
        if len(text) > get_settings().max_input_bytes + ENVELOPE_BYTES:
            raise Problem(413, "input-too-large", f"The job has {len(text):,} bytes.")
        body = from_json(text, f"jobs.{index}")
        own = isinstance(body, dict) and body.get("idempotency_key") is not None
        default = None if given is None or own else f"{given}:{index}"
        return parse_named(body, here.registry, key, default)
    except Problem as error:
        if error.kind == "malformed-json":
            raise
        return error.as_json()
    except ClaudeJobsError as error:
        return from_exception(error).as_json()


async def _insert(here: Context, parsed: list[NewJob | _Refusal]) -> Response:
    unknown = await unknown_pins(here, [each for each in parsed if isinstance(each, NewJob)])
    if unknown:
        parsed = [_refused_if(here, unknown, each) for each in parsed]
    jobs = [each for each in parsed if isinstance(each, NewJob)]
    inserted = iter(await here.database.run(insert_each, jobs))
    items = [
        _item(each, next(inserted)) if isinstance(each, NewJob) else {"problem": each}
        for each in parsed
    ]
    enqueued = sum("id" in item for item in items)
    outcome = {"jobs": items, "enqueued": enqueued, "refused": len(items) - enqueued}
    return json_response(outcome)


def _refused_if(
    here: Context, unknown: Mapping[Pin, Problem], parsed: NewJob | _Refusal
) -> NewJob | _Refusal:
    problem = unknown.get(pin_of(here, parsed)) if isinstance(parsed, NewJob) else None
    return parsed if problem is None else problem.as_json()


def _item(job: NewJob, became: Inserted) -> dict[str, Any]:
    if not became.same_input:
        return {"problem": conflict(job.idempotency_key).as_json()}
    return {"id": became.id, "created": became.created_at is not None}
