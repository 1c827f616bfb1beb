"""Many jobs in one request, and in one INSERT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.access import EnqueueKey
from api.body import read_json
from api.context import Context, context
from api.enqueueing import conflict, header_key, parse_named
from api.jobs import ASIDE_BYTES, IdempotencyKey, json_response
from api.openapi import answers, body_of
from api.problems import Problem, from_exception
from api.resources import KEY_LENGTH
from worker.engine.registry import Registry
from worker.errors import ClaudeJobsError
from worker.settings import get_settings
from worker.storage.api_keys import ApiKey
from worker.storage.enqueue import Inserted, NewJob, insert_each

MOST_JOBS = 10_000
#: Of one service: one is read while another is inserted. As objects a batch takes up to thirty
#: times its size: as many as a service has connections would take all the memory there is.
AT_ONCE = 2

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
        data, size = await read_json(request, get_settings().api_batch_bytes)
        bodies = _bodies(data)
        if size > ASIDE_BYTES:
            parsed = await here.database.aside(
                lambda: _parse_all(bodies, here.registry, key, given)
            )
        else:
            parsed = _parse_all(bodies, here.registry, key, given)
        return await _insert(here, parsed)


def _bodies(data: Any) -> list[Any]:
    match data:
        case {"jobs": list(bodies)} if len(data) == 1 and 0 < len(bodies) <= MOST_JOBS:
            return bodies
    raise Problem(
        422,
        "invalid-input",
        f'The body does not fit: it is {{"jobs": […]}}, with 1 to {MOST_JOBS:,} jobs.',
    )


@dataclass(frozen=True, slots=True)
class _Refused:
    problem: Problem


def _parse_all(
    bodies: list[Any], registry: Registry, key: ApiKey, given: str | None
) -> list[NewJob | _Refused]:
    parsed: list[NewJob | _Refused] = []
    for index, body in enumerate(bodies):
        own = isinstance(body, dict) and body.get("idempotency_key") is not None
        try:
            default = None if given is None or own else f"{given}:{index}"
            parsed.append(parse_named(body, registry, key, default))
        except (Problem, ClaudeJobsError) as error:
            parsed.append(_Refused(from_exception(error)))
    return parsed


async def _insert(here: Context, parsed: list[NewJob | _Refused]) -> Response:
    jobs = [each for each in parsed if isinstance(each, NewJob)]
    inserted = iter(await here.database.run(insert_each, jobs))
    items = [
        {"problem": each.problem.as_json()}
        if isinstance(each, _Refused)
        else _item(each, next(inserted))
        for each in parsed
    ]
    enqueued = sum("id" in item for item in items)
    outcome = {"jobs": items, "enqueued": enqueued, "refused": len(items) - enqueued}
    return json_response(outcome)


def _item(job: NewJob, became: Inserted) -> dict[str, Any]:
    if not became.same_input:
        return {"problem": conflict(job.idempotency_key).as_json()}
    return {"id": became.id, "created": became.created_at is not None}
