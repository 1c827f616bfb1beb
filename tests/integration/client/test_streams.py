"""Streams that break go on where they were; what ends a job comes once."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from claude_jobs_client import (
    Delta,
    Error,
    JobNotEnded,
    NotFound,
    OutputMismatch,
    Partial,
    Result,
    Retrying,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from tests.integration.client.conftest import QUICK, Connect
from tests.integration.client.faulty import Faulty, says, silent, streams

ID = UUID(int=7)
HELLO = ": the job's events\nretry: 1000\n\n"


class Answer(BaseModel):
    n: int


def job(state: str = "succeeded", **changes: Any) -> dict[str, Any]:
    moment = "2026-01-01T00:00:00Z"
    return {
        "id": str(ID),
        "task": "t",
        "state": state,
        "priority": 1,
        "user_id": None,
        "idempotency_key": None,
        "prompt_version": None,
        "model": None,
        "attempt": 1,
        "max_attempts": 5,
        "stream": True,
        "created_at": moment,
        "started_at": moment,
        "finished_at": moment if state in ("succeeded", "failed", "cancelled") else None,
        "error": None,
        "output": {"n": 1} if state == "succeeded" else None,
        "usage": {"calls": 1, "input_tokens": 2, "output_tokens": 3, "cost_usd": "0.1"},
        "links": {},
        "unheard_of": True,
    } | changes


def event(kind: str, data: Any, id: str | None = None) -> str:
    lines = [f"event: {kind}", f"data: {json.dumps(data, ensure_ascii=False)}"]
    return "\n".join([*lines, *([f"id: {id}"] if id else []), "", ""])


def test_a_stream_that_breaks_goes_on_behind_the_last_event(
    faulty: Faulty, connect: Connect
) -> None:
    client = connect(faulty.url)
    faulty.then(
        streams(HELLO, event("delta", {"text": '{"n"\u2028'}, "7-1"), cut=True),
        says(503, retry_after="0"),
        streams(HELLO, event("partial", {"output": {}}), ": keepalive\n\n"),
        streams(event("retrying", {"attempt": 2, "reason": "lost"}, "8-1"), "event: delta\nda"),
        streams(event("unheard_of", []), event("result", job())),
    )

    events = list(client.stream(ID, output=Answer))

    delta, partial, retrying, result = events
    assert delta == Delta("7-1", '{"n"\u2028')
    assert partial == Partial({})
    assert retrying == Retrying("8-1", 2, "lost")
    assert isinstance(result, Result)
    assert result.output == Answer(n=1)
    asked = [
        {name.lower(): value for name, value in seen.headers.items()}.get("last-event-id")
        for seen in faulty.seen
    ]
    assert asked == [None, "7-1", "7-1", "7-1", "8-1"]


def test_a_stream_that_only_breaks_is_given_up(faulty: Faulty, connect: Connect) -> None:
    client = connect(faulty.url)
    faulty.then(*[streams(HELLO)] * 4)
    with pytest.raises(Unavailable, match="the stream ended before the job did"):
        list(client.stream(ID))
    assert len(faulty.seen) == QUICK.tries


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_does_not_succeed_ends_with_an_error(
    faulty: Faulty, connect: Connect, state: str
) -> None:
    client = connect(faulty.url)
    faulty.then(streams(event("error", job(state, error={"type": "refused", "message": "m"}))))
    (error,) = client.stream(ID, output=Answer)
    assert isinstance(error, Error)
    assert (error.state, error.job.id) == (state, ID)
    assert error.error is not None
    assert error.error.type == "refused"


def test_what_is_no_stream_of_events_is_told(faulty: Faulty, connect: Connect) -> None:
    client = connect(faulty.url)
    gone = {"type": "urn:x", "title": "Not Found", "status": 404, "detail": "There is no such job."}
    faulty.then(
        says(200, b"<html>", Content_Type="text/html"),
        streams(event("delta", {"txt": 1})),
        streams(event("error", gone)),
        says(404, json.dumps(gone).encode(), Content_Type="application/problem+json"),
        streams(event("result", job(output={"n": "secret"}))),
    )
    with pytest.raises(UnexpectedAnswer, match="text/html is no stream of events"):
        list(client.stream(ID))
    with pytest.raises(UnexpectedAnswer, match="a 'delta' is not as expected"):
        list(client.stream(ID))
    for _ in range(2):
        with pytest.raises(NotFound, match=r": There is no such job\.$"):
            list(client.stream(ID))
    with pytest.raises(OutputMismatch, match=r"does not fit the type given: output\.n") as caught:
        list(client.stream(ID, output=Answer))
    assert "secret" not in str(caught.value)


def test_a_stream_that_ends_with_its_key_is_told(faulty: Faulty, connect: Connect) -> None:
    client = connect(faulty.url)
    ended = {"type": "urn:x", "title": "Unauthorized", "status": 401, "detail": "It has ended."}
    faulty.then(streams(HELLO, event("error", ended)))
    with pytest.raises(Unauthorized, match=r": It has ended\.$"):
        list(client.stream(ID))


def test_a_stream_has_a_timeout_and_can_be_left(faulty: Faulty, connect: Connect) -> None:
    client = connect(faulty.url)
    faulty.then(silent)
    with pytest.raises(JobNotEnded, match=r"has not ended after 0\.2 s"):
        list(client.stream(ID, timeout=0.2))
    faulty.then(streams(event("delta", {"text": "a"}, "7-1"), event("delta", {"text": "b"}, "7-2")))
    for first in client.stream(ID, after="7-0"):
        assert first == Delta("7-1", "a")
        break
