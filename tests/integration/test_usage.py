"""The usage commands: sums that agree with the rows, and prices that can be renewed."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from worker.cli import main
from worker.settings import get_settings
from worker.storage.engine import transaction

pytestmark = pytest.mark.usefixtures("producer")

INSERT = text("""
INSERT INTO usage (task, user_id, attempt, call, outcome, model, prompt, prompt_version,
                   prompt_sha256, input_tokens, output_tokens, thinking_tokens, cost_usd, complete)
VALUES ('summarize_text', :user, 1, 1, :outcome, :model, 'summarize_text', '1.0', 'x', 1000,
        :output, 10, :cost, true)
""")


@pytest.fixture(autouse=True)
def rows(producer: None) -> None:
    known = {"model": "claude-haiku-5-5", "outcome": "ok", "cost": Decimal("0.001")}
    with transaction() as connection:
        for n in range(1, 101):
            values = known | {"user": f"u{n % 2}", "output": n}
            connection.execute(INSERT, values)
        unknown = {"model": "claude-new", "outcome": "truncated", "cost": None}
        connection.execute(INSERT, unknown | {"user": None, "output": 6500})


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["claude-jobs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.mark.parametrize("by", ["task", "prompt", "model", "user", "day", "outcome"])
def test_every_dimension_sums_to_the_same(capsys: pytest.CaptureFixture[str], by: str) -> None:
    code, out, _ = run(capsys, "usage", "--by", by, "--json")

    assert code in (0, None)
    found = json.loads(out)
    assert sum(Decimal(row["cost_usd"]) for row in found) == Decimal("0.1")
    assert sum(row["calls"] for row in found) == 101
    assert sum(row["unpriced"] for row in found) == 1


def test_what_was_served_without_a_call_is_counted_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    served = """
        INSERT INTO usage (task, attempt, call, outcome, model, prompt, prompt_version,
                           prompt_sha256, cost_usd, full_cost_usd, complete, source, coalesced)
        SELECT 'summarize_text', 1, 1, 'ok', 'claude-haiku-5-5', 'summarize_text', '1.0', 'x', 0,
               0.25, true, 'cache', n > 1 FROM generate_series(1, 3) AS n"""
    _, before, _ = run(capsys, "usage", "profile")
    with transaction() as connection:
        connection.execute(text(served))

    _, out, _ = run(capsys, "usage", "--json")
    (row,) = json.loads(out)
    assert (row["calls"], row["hits"], row["coalesced"]) == (101, 1, 2)
    assert (Decimal(row["cost_usd"]), Decimal(row["spared_usd"])) == (
        Decimal("0.1"),
        Decimal("0.75"),
    )
    assert run(capsys, "usage", "profile")[1] == before
    assert "$0.7500" in run(capsys, "usage")[1]


def test_calls_without_a_price_are_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "usage")

    assert code in (0, None)
    assert "total $0.1000" in out
    assert "1 calls have no price" in err


def test_the_profile_sets_lengths_beside_max_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "usage", "profile")

    assert code in (0, None)
    assert "6,500" in out  # the prompt's max_tokens
    assert "1.0%" in out  # one of 101 was truncated


def test_repricing_follows_the_price_list(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "usage", "reprice")

    assert code in (0, None)
    assert "101 calls looked at, 100 have a new cost" in err
    with transaction() as connection:
        costs = text("SELECT output_tokens, cost_usd FROM usage WHERE model = 'claude-haiku-5-5'")
        for output, cost in connection.execute(costs):
            # $0.10 and $0.50 a million tokens
            assert cost == Decimal("0.0001") + output * Decimal("0.0000005")


NEGOTIATED = """
discount = "10%"
[models."claude-new"]
input = "2"
output = "10"
cache_read = "0.2"
cache_write_5m = "2.5"
cache_write_1h = "4"
"""


def test_repricing_follows_the_contract_and_says_so_in_the_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(NEGOTIATED)
    monkeypatch.setenv("CLAUDE_JOBS_PRICES_FILE", str(file))
    get_settings.cache_clear()
    with transaction() as connection:
        connection.execute(text("UPDATE usage SET source = 'batch' WHERE user_id = 'u1'"))

    code, _, err = run(capsys, "usage", "reprice")

    assert code in (0, None)
    assert "101 calls looked at, 101 have a new cost (genai-prices " in err
    with transaction() as connection:
        rows = connection.execute(text("SELECT * FROM usage")).mappings().all()
    for row in rows:
        assert " + prices.toml " in row["price_version"]
        if row["model"] == "claude-new":
            assert row["cost_usd"] == Decimal("0.002") + Decimal("0.065")
            assert row["full_cost_usd"] == row["cost_usd"]
            continue
        listed = Decimal("0.0001") + row["output_tokens"] * Decimal("0.0000005")
        batch = row["source"] == "batch"
        exact = listed * Decimal("0.9") * (Decimal("0.5") if batch else 1)
        assert row["cost_usd"] == exact.quantize(Decimal("1e-8"))
        assert row["full_cost_usd"] == (listed * Decimal("0.9")).quantize(Decimal("1e-8"))


def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("usage", "--by", "moon"), ("usage", "--since", "yesterday")):
        code, _, err = run(capsys, *arguments)
        assert code == 1
        assert err.startswith("claude-jobs: ")
        assert len(err.splitlines()) == 1
