"""What is asked next: compact repairs, more room up to a ceiling, another model once."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from worker.claude.request import Request
from worker.engine.followup import REPAIR_INPUT_RATIO, enlarge, fall_back, repair
from worker.engine.prompts import Prompt, PromptFile

REQUEST = Request(
    model="claude-haiku-5-5", max_tokens=1000, system="s" * 400, user="u" * 400, schema={}
)
PROBLEMS = [{"path": "a.0.b", "problem": "Field required"}]


def prompt(**keys: object) -> Prompt:
    basis = {"model": "claude-haiku-5-5", "max_tokens": 1000, "system": "s", "template": "t"}
    return Prompt("p", "1.0", PromptFile.model_validate(basis | keys))


def sent(request: Request) -> int:
    correction = sum(map(len, request.correction or ()))
    return request.input_characters() + correction


@given(st.text(max_size=5000), st.text(max_size=5000))
def test_a_repair_is_compact(bad_output: str, path: str) -> None:
    problems = [{"path": path, "problem": "Extra inputs are not permitted"}] * 20
    asked = repair(REQUEST, bad_output, problems)
    assert asked is not None
    assert sent(asked) <= REPAIR_INPUT_RATIO * sent(REQUEST)
    again = repair(asked, bad_output, problems)
    assert again is not None
    assert sent(again) <= REPAIR_INPUT_RATIO * sent(REQUEST)
    assert len(again.parameters()["messages"]) == 3


def test_a_prompt_that_is_too_short_for_a_repair_has_none() -> None:
    assert repair(replace(REQUEST, system="s", user="u"), "{}", PROBLEMS) is None


def test_a_repair_names_each_problem_by_its_path() -> None:
    asked = repair(REQUEST, "{}", PROBLEMS)
    assert asked is not None
    _, _, instruction = asked.parameters()["messages"]
    assert "- a.0.b: Field required" in instruction["content"]


def test_a_truncated_reply_gets_twice_the_room_up_to_the_ceiling() -> None:
    roomy = prompt(max_tokens_ceiling=3000)
    second = enlarge(REQUEST, roomy)
    assert second is not None
    assert second.max_tokens == 2000
    third = enlarge(second, roomy)
    assert third is not None
    assert third.max_tokens == 3000
    assert enlarge(third, roomy) is None
    assert enlarge(REQUEST, prompt()) is None


def test_a_refusal_asks_the_fallback_model_once() -> None:
    with_fallback = prompt(fallback_model="claude-sonnet-5-5")
    asked = fall_back(REQUEST, with_fallback)
    assert asked is not None
    assert asked.model == "claude-sonnet-5-5"
    assert fall_back(asked, with_fallback) is None
    assert fall_back(replace(REQUEST), prompt()) is None
