"""Sending a response: at its pace, and as far as its fault lets it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from sandbox.claude.faults import Fault, Point
from sandbox.claude.ledger import LedgerEntry
from sandbox.claude.messages import sse_event


@dataclass(frozen=True, slots=True)
class Wire:
    """A response to send: its head, and its body in the pieces in which it is written.

    `piece_seconds` is the pause before each piece but the first, at which the first byte of the
    body goes out. `entry` is told when the first text of a stream does.
    """

    status: int
    headers: Mapping[str, str]
    pieces: Sequence[bytes]
    streamed: bool = False
    piece_seconds: float = 0.0
    entry: LedgerEntry | None = None


async def send(request: web.BaseRequest, wire: Wire) -> web.StreamResponse:
    """Send all of `wire`."""
    if not wire.streamed:
        response: web.StreamResponse = web.Response(
            status=wire.status, headers=wire.headers, body=b"".join(wire.pieces)
        )
        await response.prepare(request)
        await response.write_eof()
        return response
    response = await _head(request, wire)
    if wire.piece_seconds:
        await _paced(response, wire)
    else:
        _note_text(wire, b"".join(wire.pieces))
        await response.write(b"".join(wire.pieces))
    await response.write_eof()
    return response


async def send_faulty(
    request: web.BaseRequest, wire: Wire, fault: Fault
) -> tuple[web.StreamResponse, bool]:
    """Send `wire` as far as `fault` lets it; also, whether all of it was sent."""
    is_whole = not fault.breaks_off
    if is_whole and fault.trickle is None:
        return await send(request, wire), True
    at = _strikes_at(fault)
    if at == "start":
        await _silence(fault)
        return _hung_up(request, web.StreamResponse()), False
    response = await _head(request, wire)
    pieces = wire.pieces if is_whole else _until(wire, at)
    if fault.trickle:
        await _trickle(response, b"".join(pieces), fault.trickle)
    else:
        await _paced(response, Wire(200, {}, pieces, True, wire.piece_seconds))
    if fault.sse_error:
        error = fault.sse_error.model_dump()
        await response.write(sse_event({"type": "error", "error": error}))
    if fault.cut or fault.stall or fault.swallow:
        await _silence(fault)
        return _hung_up(request, response), False
    await response.write_eof()
    return response, is_whole


async def _silence(fault: Fault) -> None:
    if fault.swallow:
        # Ends when the client leaves: that cancels the handler.
        await asyncio.get_running_loop().create_future()
    elif fault.stall:
        await asyncio.sleep(fault.stall)


async def _head(request: web.BaseRequest, wire: Wire) -> web.StreamResponse:
    response = web.StreamResponse(status=wire.status, headers=wire.headers)
    if not wire.streamed:
        response.content_length = sum(map(len, wire.pieces))
    await response.prepare(request)
    return response


async def _paced(response: web.StreamResponse, wire: Wire) -> None:
    clock = asyncio.get_running_loop().time
    due = clock()
    for piece in wire.pieces:
        wait = due - clock()
        if wait > 0:
            await asyncio.sleep(wait)
        _note_text(wire, piece)
        await response.write(piece)
        due += wire.piece_seconds


def _note_text(wire: Wire, piece: bytes) -> None:
    if wire.entry and wire.entry.first_text_at is None and b'"text_delta"' in piece:
        wire.entry.first_text_at = time.time()


async def _trickle(response: web.StreamResponse, body: bytes, seconds: float) -> None:
    for index in range(len(body)):
        await response.write(body[index : index + 1])
        await asyncio.sleep(seconds)


def _strikes_at(fault: Fault) -> str | Point:
    if fault.at is not None:
        return fault.at
    if fault.eof:
        return Point(events=-1)
    if fault.sse_error:
        return Point(events=4)
    return "start" if fault.cut or fault.stall or fault.swallow else "headers"


def _until(wire: Wire, at: str | Point) -> Sequence[bytes]:
    """The pieces of the body that are sent before the fault strikes."""
    if isinstance(at, str):
        return ()
    if at.bytes is not None:
        return (b"".join(wire.pieces)[: at.bytes],)
    if wire.streamed:
        return wire.pieces[: at.events]
    body = b"".join(wire.pieces)
    return (body[: len(body) // 2],)


def _hung_up(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection; what was written before still arrives."""
    if request.transport is not None:
        request.transport.close()
    return response
