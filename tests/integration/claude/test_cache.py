"""Prompt caching: what is written, what can be read, for how long, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anthropic import Anthropic
from anthropic.types import Usage

from sandbox.claude.client import SimulatedClaude
from tests.integration.claude.asking import ask, begun, post, request

RULES = "Keep to the rules. " * 400
LONG = "Remember all of this. " * 400


def marked(text: str, ttl: str | None = "5m") -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": text}
    return block | ({"cache_control": {"type": "ephemeral", "ttl": ttl}} if ttl else {})


def use(sdk: Anthropic, *system: dict[str, Any], text: str = "Go on.", **options: Any) -> Usage:
    return ask(sdk, text, system=list(system), **options).usage


def split(usage: Usage) -> tuple[int, int, int]:
    """Tokens read, written for five minutes, written for an hour."""
    assert usage.cache_creation is not None
    written = usage.cache_creation
    five, hour = written.ephemeral_5m_input_tokens, written.ephemeral_1h_input_tokens
    assert usage.cache_creation_input_tokens == five + hour
    return usage.cache_read_input_tokens or 0, five, hour


def test_prompt_caching_is_billed_by_ttl(sdk: Anthropic, claude: SimulatedClaude) -> None:
    for ttl in ("5m", "5m", "1h", "1h"):
        use(sdk, marked(f"{ttl} rules. " * 800, ttl))
    write_5m, read_5m, write_1h, read_1h = (entry.usage for entry in claude.ledger())

    assert write_5m.cache_write_5m_tokens > 1024
    assert write_1h.cache_write_1h_tokens == write_5m.cache_write_5m_tokens
    assert read_5m.cache_read_tokens == write_5m.cache_write_5m_tokens
    assert read_1h.cache_read_tokens == write_1h.cache_write_1h_tokens
    assert len({entry.usage.prompt_tokens for entry in claude.ledger()}) == 1


@pytest.mark.parametrize(("ttl", "seconds"), [("5m", 300), ("1h", 3600)])
def test_an_entry_lives_for_its_ttl_and_a_read_renews_it(
    sdk: Anthropic, claude: SimulatedClaude, ttl: str, seconds: float
) -> None:
    def reads() -> bool:
        return split(use(sdk, marked(RULES, ttl)))[0] > 0

    assert not reads()
    for _ in range(3):
        claude.age_cache(0.8 * seconds)
        assert reads()
    claude.age_cache(seconds)
    assert not reads()


def test_entries_age_as_fast_as_they_are_told(sdk: Anthropic, claude: SimulatedClaude) -> None:
    use(sdk, marked(RULES, "1h"))
    claude.configure(cache_speed=1e9)
    assert split(use(sdk, marked(RULES, "1h")))[0] == 0

    claude.configure(cache_speed=1)
    assert split(use(sdk, marked(RULES, "1h")))[0] > 0


def test_an_entry_can_be_read_once_its_reply_has_begun(
    sdk: Anthropic, claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(latency=60)
    with begun(claude, request("First", system=[marked(RULES)])):
        eventually(lambda: [entry.billed for entry in claude.ledger()] == [True])
        claude.configure(latency=0)
        beside, after = use(sdk, marked(RULES)), use(sdk, marked(RULES))

    assert split(beside)[:2] == (0, beside.cache_creation_input_tokens)
    assert split(after)[0] == beside.cache_creation_input_tokens


def test_a_prefix_below_the_minimum_is_not_cached(sdk: Anthropic) -> None:
    for _ in range(2):
        usage = use(sdk, marked("Too short."))
        assert split(usage) == (0, 0, 0)
        assert usage.input_tokens > 0


def test_both_ttls_in_one_prompt_are_told_apart(sdk: Anthropic) -> None:
    first = use(sdk, marked(RULES, "1h"), marked(LONG))
    second = use(sdk, marked(RULES, "1h"), marked(LONG + "More."))
    read, five, hour = split(first)

    assert read == 0
    assert min(five, hour) > 1024
    assert split(second)[0] == hour
    assert split(second)[2] == 0


def test_a_breakpoint_looks_back_twenty_blocks(sdk: Anthropic) -> None:
    def conversation(blocks: int) -> list[dict[str, Any]]:
        parts = [marked(f"{number} {RULES}", None) for number in range(blocks - 1)]
        return [*parts, marked("The end of it.")]

    use(sdk, *conversation(2)[:1], marked("0"))  # fills nothing that the others read
    written = split(use(sdk, marked(f"0 {RULES}")))[1]
    near, far = conversation(21), conversation(23)

    assert split(use(sdk, *near))[0] == written
    assert split(use(sdk, marked("new"), *far[1:]))[0] == 0


def test_the_mark_of_a_whole_request_caches_all_of_it(claude: SimulatedClaude) -> None:
    body = request(RULES, cache_control={"type": "ephemeral"})
    first, second = (post(claude, body).json()["usage"] for _ in range(2))

    assert first["cache_creation_input_tokens"] == second["cache_read_input_tokens"] > 1024
    assert first["input_tokens"] == second["input_tokens"] == 0


def test_models_and_schemas_do_not_share_entries(sdk: Anthropic) -> None:
    use(sdk, marked(RULES * 2))

    assert split(use(sdk, marked(RULES * 2), model="claude-haiku-5-5"))[0] == 0
    assert split(use(sdk, marked(RULES * 2)))[0] > 0


def test_an_error_writes_nothing(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults({"status": 529})
    assert post(claude, request(system=[marked(RULES)])).status_code == 529

    assert split(use(sdk, marked(RULES)))[0] == 0
