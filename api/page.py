"""The page at `/`: try a task, watch its result being written, see what it cost.

The page is static and public; everything in it comes over the API, with the key that its reader
types in. Its policy lets it load from and talk to this very origin only, and run no inline script:
what Claude writes is data to it, whatever it looks like.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from api.access import AnyKey
from api.context import context
from api.jobs import json_response
from api.problems import Problem
from worker.engine.samples import read_samples
from worker.settings import get_settings

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_FOLDER = Path(__file__).resolve().parent / "static"
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

router = APIRouter(include_in_schema=False)


@cache
def _files() -> dict[str, Response]:
    """All there is, read once: a name in a request never becomes a path."""
    return {
        file.name: Response(file.read_bytes(), headers=_HEADERS, media_type=_TYPES[file.suffix])
        for file in _FOLDER.iterdir()
        if file.suffix in _TYPES
    }


@router.get("/")
async def page() -> Response:
    """The page, which needs no key: it asks for one."""
    return _files()["page.html"]


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """A part of the page."""
    if (found := _files().get(name)) is None:
        raise Problem(404, "not-found", "There is no such file.")
    return found


@router.get("/page/settings")
async def settings(request: Request, key: AnyKey) -> Response:
    """Where Flower is, if that was set, and which tasks have samples."""
    del key
    folder = get_settings().api_samples_dir
    registry = context(request).registry
    sampled = [name for name in registry if folder and (folder / f"{name}.jsonl").is_file()]
    return json_response({"flower_url": get_settings().api_flower_url, "samples": sampled})


@router.get("/page/samples/{task}")
async def samples(request: Request, key: AnyKey, task: str) -> Response:
    """A task's sample inputs, if there are any."""
    del key
    folder = get_settings().api_samples_dir
    if folder is None or task not in context(request).registry:
        raise Problem(404, "not-found", "There are no samples of this task.")
    return json_response({"samples": await run_in_threadpool(_read, folder / f"{task}.jsonl")})


def _read(file: Path) -> list[dict[str, Any]]:
    return read_samples(file) if file.is_file() else []
