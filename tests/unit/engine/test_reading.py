"""The reply reader: every kind of reply, and whatever else arrives."""

from __future__ import annotations

import json
from enum import Enum
from typing import Literal

import pytest
from pydantic import Field

from worker.claude.reply import Reply, Tokens, read_message
from worker.engine.reading import (
    Empty,
    Invalid,
    Reading,
    Refused,
    Salvaged,
    Truncated,
    Valid,
    read_reply,
)
from worker.engine.task import TaskOutput


class Mood(Enum):
    CALM = "calm"
    ANGRY = "angry"


class Point(TaskOutput):
    text: str
    priority: Literal["high", "low"]


class Answer(TaskOutput):
    answer: str
    mood: Mood = Mood.CALM
    points: list[Point] = Field(default_factory=list)
    best: Point | None = None


GOOD = '{"answer": "yes"}'


def read(text: str, stop_reason: str | None = "end_turn") -> Reading:
    reply = Reply(
        text=text,
        stop_reason=stop_reason,
        model="m",
        tokens=Tokens(),
        service_tier=None,
        request_id=None,
        latency_ms=1,
    )
    return read_reply(reply, Answer)


def test_a_plain_reply_is_valid() -> None:
    assert read(GOOD) == Valid(Answer(answer="yes"))


@pytest.mark.parametrize(
    ("text", "how"),
    [
        (f"```json\n{GOOD}\n```", "fence"),
        (f"Sure!\n```\n{GOOD}\n```\nAnything else?", "fence"),
        (f"```json\n{GOOD}", "fence"),
        (f"Here you are: {GOOD} – I hope that helps.", "around"),
    ],
)
def test_a_wrapped_reply_is_salvaged(text: str, how: str) -> None:
    reading = read(text)
    assert isinstance(reading, Salvaged)
    assert reading.output == Answer(answer="yes")
    assert how in reading.how


def test_enum_values_that_differ_only_in_capitalisation_are_spelled_right() -> None:
    document = {
        "answer": "YES",
        "mood": "Angry",
        "points": [{"text": "HIGH", "priority": "HIGH"}],
        "best": {"text": "t", "priority": "Low"},
    }
    reading = read(json.dumps(document))
    assert isinstance(reading, Salvaged)
    assert "spelled" in reading.how
    assert reading.output == Answer(
        answer="YES",
        mood=Mood.ANGRY,
        points=[Point(text="HIGH", priority="high")],
        best=Point(text="t", priority="low"),
    )


def test_an_unfit_reply_is_invalid_by_path() -> None:
    reading = read('{"answer": 1, "points": [{"text": "t"}]}')
    assert isinstance(reading, Invalid)
    assert {p["path"] for p in reading.problems} == {"answer", "points.0.priority"}


@pytest.mark.parametrize("limit", ["max_tokens", "model_context_window_exceeded"])
def test_a_cut_reply_is_truncated_even_if_it_reads_well(limit: str) -> None:
    assert read(GOOD, limit) == Truncated(limit)


def test_refused_and_empty() -> None:
    assert read(GOOD, "refusal") == Refused(None)
    assert read("  \n") == Empty("end_turn")
    assert read("", "pause_turn") == Empty("pause_turn")


def test_text_may_follow_thinking_and_be_split() -> None:
    body = {
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": '{"answer": '},
            {"type": "text", "text": '"yes"}'},
        ],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    reply = read_message(json.dumps(body).encode(), headers={}, latency_ms=1)
    assert read_reply(reply, Answer) == Valid(Answer(answer="yes"))


def test_a_refusal_names_its_category() -> None:
    body = {
        "model": "m",
        "content": [],
        "stop_reason": "refusal",
        "stop_details": {"type": "refusal", "category": "cyber"},
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    reply = read_message(json.dumps(body).encode(), headers={}, latency_ms=1)
    assert read_reply(reply, Answer) == Refused("cyber")
