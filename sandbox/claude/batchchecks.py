"""What a request to create a batch must say. The `params` are checked later, item by item."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from sandbox.claude.errors import ApiError

MAX_REQUESTS = 100_000
MAX_BATCH_BYTES = 256 * 1024 * 1024
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FIELDS = {"custom_id", "params"}


@dataclass(frozen=True, slots=True)
class Item:
    """One request of a batch; `params` as JSON, unchecked."""

    custom_id: str
    params: bytes


def parse_batch(body: bytes) -> list[Item]:
    """The requests in `body`. Raises a 400 for what the API refuses as a whole."""
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from None
    if not isinstance(payload, dict):
        raise ApiError(400, "The request body should be a JSON object")
    for name in payload.keys() - {"requests"}:
        raise ApiError(400, f"{name}: Extra inputs are not permitted")
    requests = payload.get("requests")
    if requests is None:
        raise ApiError(400, "requests: Field required")
    if not isinstance(requests, list):
        raise ApiError(400, "requests: Input should be a valid list")
    if not requests:
        raise ApiError(400, "requests: List should have at least 1 item after validation, not 0")
    if len(requests) > MAX_REQUESTS:
        raise ApiError(400, f"requests: List should have at most {MAX_REQUESTS} items")
    items = [_item(index, request) for index, request in enumerate(requests)]
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.custom_id in seen:
            raise ApiError(
                400,
                f"requests.{index}.custom_id: custom_id must be unique within a batch; "
                f"'{item.custom_id}' was given before",
            )
        seen.add(item.custom_id)
    return items


def _item(index: int, request: Any) -> Item:
    where = f"requests.{index}"
    if not isinstance(request, dict):
        raise ApiError(400, f"{where}: Input should be an object")
    for name in ("custom_id", "params"):
        if name not in request:
            raise ApiError(400, f"{where}.{name}: Field required")
    for name in request.keys() - _FIELDS:
        raise ApiError(400, f"{where}.{name}: Extra inputs are not permitted")
    custom_id, params = request["custom_id"], request["params"]
    if not isinstance(custom_id, str):
        raise ApiError(400, f"{where}.custom_id: Input should be a valid string")
    if not _CUSTOM_ID.fullmatch(custom_id):
        raise ApiError(
            400, f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
        )
    if not isinstance(params, dict):
        raise ApiError(400, f"{where}.params: Input should be an object")
    return Item(custom_id, json.dumps(params, ensure_ascii=False, separators=(",", ":")).encode())
