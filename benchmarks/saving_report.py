"""What was saved, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from benchmarks.shown import Shown

OURS, ARTICLE, PLAIN = "claude-jobs", "the article's way", "plain calls"
JUDGED = "judged"


def tables(result: dict[str, Any]) -> Iterator[Shown]:
    """Who pays what; where it is saved; and how that changes with the workload."""
    case = result["cases"][JUDGED]
    yield _paid(case, result)
    yield _saved(case)
    if len(result["cases"]) > 1:
        yield _others(result["cases"])


def share_of_plain(case: dict[str, Any], name: str = OURS) -> Decimal:
    """What `name` paid, of what plain calls cost."""
    rows = case["contenders"]
    return Decimal(rows[name]["usd"]) / Decimal(rows[PLAIN]["usd"])


def unexplained_usd(case: dict[str, Any]) -> Decimal:
    """What `usage` says was saved, less the difference of the two ledgers."""
    rows = case["contenders"]
    difference = Decimal(rows[PLAIN]["usd"]) - Decimal(rows[OURS]["usd"])
    said = sum(map(Decimal, rows[OURS]["saved"]["by"].values()), Decimal(0))
    return said - difference


def _paid(case: dict[str, Any], result: dict[str, Any]) -> Shown:
    load = case["workload"]
    title = (
        f"Saving: {load['jobs']:,} jobs within an hour that took {3600 / result['speed']:g} s, "
        f"{load['jobs'] - case['distinct']:,} of them repeats, {load['deferrable']:.0%} deferrable"
    )
    rows = [
        (
            name,
            _per_thousand(row["usd"], load["jobs"]),
            f"{share_of_plain(case, name):.1%}",
            f"{row['calls']:,}",
            f"{row['input_tokens']:,}",
            f"{row['cache_write_tokens']:,}",
            f"{row['cache_read_tokens']:,}",
            f"{row['output_tokens']:,}",
            f"{row['same']:,}",
        )
        for name, row in case["contenders"].items()
    ]
    columns = (
        "", "per 1,000 jobs", "of plain", "calls billed", "input tokens", "written to the cache",
        "read from it", "output tokens", "same outputs",
    )  # fmt: skip
    return Shown(title, columns, rows)


def _saved(case: dict[str, Any]) -> Shown:
    jobs, ours = case["workload"]["jobs"], case["contenders"][OURS]
    plain = Decimal(case["contenders"][PLAIN]["usd"])
    rows: list[tuple[str, ...]] = [
        (name, _per_thousand(usd, jobs), f"{Decimal(usd) / plain:.1%}")
        for name, usd in ours["saved"]["by"].items()
    ]
    rows.append(("paid", _per_thousand(ours["usd"], jobs), f"{share_of_plain(case):.1%}"))
    title = "Where claude-jobs saves it, as its `usage` table says"
    return Shown(title, ("", "per 1,000 jobs", "of plain"), rows)


def _others(cases: dict[str, Any]) -> Shown:
    rows = []
    for name, case in cases.items():
        load, paid = case["workload"], case["contenders"]
        saved = paid[OURS]["saved"]["by"]
        plain = Decimal(paid[PLAIN]["usd"])
        rows.append(
            (
                name,
                _per_thousand(paid[PLAIN]["usd"], load["jobs"]),
                f"{share_of_plain(case, ARTICLE):.1%}",
                f"{share_of_plain(case):.1%}",
                *(f"{Decimal(usd) / plain:.1%}" for usd in saved.values()),
            )
        )
    columns = ("workload", "plain, per 1,000 jobs", ARTICLE, OURS)
    by = tuple(f"by {name}" for name in cases[JUDGED]["contenders"][OURS]["saved"]["by"])
    return Shown("How that changes with the workload (of plain)", (*columns, *by), rows)


def _per_thousand(usd: str, jobs: int) -> str:
    return f"${Decimal(usd) * 1000 / jobs:.2f}"
