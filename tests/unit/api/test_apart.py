"""Taking a batch apart: the same jobs, and the same refusals, as if it were parsed as a whole."""

from __future__ import annotations

import json
from typing import Any

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import apart
from api.apart import each_job
from api.body import from_json
from api.problems import Problem
from worker.settings import get_settings

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\[]{},:\n é😀', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def taken_apart(body: bytes) -> list[Any] | int:
    """The jobs, or the status of the refusal."""
    try:
        return [from_json(text) for text in each_job(body) if text is not None]
    except Problem as problem:
        return problem.status


def as_a_whole(body: bytes) -> list[Any] | int:
    """The same, by the parser alone."""
    try:
        data = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError:
        return 400
    match data:
        case {"jobs": list(jobs)} if len(data) == 1 and jobs:
            return jobs
    return 422


@given(st.lists(VALUES, max_size=5), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_the_jobs_are_those_of_the_whole(jobs: list[Any], ascii_: bool, indent: Any) -> None:
    body = json.dumps({"jobs": jobs}, ensure_ascii=ascii_, indent=indent).encode()
    assert taken_apart(body) == as_a_whole(body)


@given(st.lists(VALUES, max_size=3), st.data())
def test_damage_is_seen_as_in_the_whole(jobs: list[Any], data: st.DataObject) -> None:
    body = bytearray(json.dumps({"jobs": jobs}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        put = data.draw(st.sampled_from([b"", b",", b"[", b"]", b"{", b"}", b'"', b"\\", b" 1"]))
        body[at : at + data.draw(st.integers(0, 1))] = put
    assert taken_apart(bytes(body)) == as_a_whole(bytes(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"jobs":[1,]}',
        b'{"jobs":[,1]}',
        b'{"jobs":[1}}',
        b'{"jobs":[[}]]}',
        b'{"jobs":[1]',
        b'{"jobs":[1]}}',
        b'{"jobs":["]}',
        b'{"jobs":[1],"jobs":[1]}',
        b'{"jobs":[1],"more":1}',
        b'{"more":1,"jobs":[1]}',
        b'{"jobs":[]}',
        b'{"jobs":1}',
    ],
)
def test_what_is_no_batch_is_refused_as_the_whole_would_be(body: bytes) -> None:
    assert isinstance(as_a_whole(body), int)
    assert taken_apart(body) == as_a_whole(body)


@pytest.mark.parametrize(
    ("job", "step"),
    [
        (b'{"a":' + b"[" * 800_000, 20_000),
        (b'"' + b"\\n" * 2_000_000, 40_000),
        (b'"' + b'\\"' * 2_000_000, 40_000),
        (b"[" + b",".join([b'"\\n"'] * 400_000), 20_000),
    ],
)
def test_it_comes_up_for_breath(job: bytes, step: int) -> None:
    """However a job looks, no step reads more than so many of its bytes."""
    steps = list[None]()
    with pytest.raises(Problem):
        steps.extend(text for text in each_job(b'{"jobs":[' + job) if text is None)
    assert len(steps) >= len(job) // step


def test_a_batch_has_so_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "MOST_VALUES", 100)
    fits = b'{"jobs":[' + b"[1,1]," * 33 + b"1]}"
    assert isinstance(taken_apart(fits), list)
    assert taken_apart(fits.replace(b",1]}", b",1,1,1]}")) == 413


def test_only_values_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_JOBS_API_INPUT_VALUES", "1000")
    get_settings.cache_clear()
    prose = json.dumps({"text": 'well, "it" [is] {so}, ' * 10_000}).encode()
    assert from_json(prose)
    table = json.dumps(list(range(1001))).encode()
    with pytest.raises(Problem, match="more than 1,000 values"):
        from_json(table)
    assert from_json(json.dumps(list(range(1000))).encode())
