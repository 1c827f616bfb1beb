"""A run of a prompt's cases in the terminal: a line a case, then what failed and on what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from worker.cli.output import money, out, table

if TYPE_CHECKING:
    from worker.evals.report import CaseReport, Report

_MARKS = {True: "[green]passed[/]", False: "[red]failed[/]"}


def print_report(report: Report) -> None:
    """Print it to stdout."""
    against = "by jobs" if report.mode == "live" else "against recorded replies"
    out.print(f"[bold]{report.prompt}/{report.version}[/] {against}\n")
    columns = ("case~", "", "held>", "skipped>", "calls>", "input>", "output>", "cost>")
    listed = table(*columns)
    for case in report.cases:
        judged = len(case.expectations) - case.count("skipped")
        listed.add_row(
            escape(case.name),
            _MARKS[case.passed],
            f"{case.count('passed')}/{judged}",
            str(case.count("skipped") or "·"),
            str(case.calls or "·"),
            f"{case.input_tokens:,}",
            f"{case.output_tokens:,}",
            "·" if report.mode == "recorded" else money(case.cost_usd),
        )
    out.print(listed)
    for case in report.cases:
        _print_details(case)
    out.print(f"\n{_summary(report)}")


def _print_details(case: CaseReport) -> None:
    wrong = [(each.name, each.why) for each in case.expectations if each.verdict == "failed"]
    if case.passed and not case.warnings:
        return
    job = f"  (job {case.job})" if case.job else ""
    out.print(f"\n[bold]{escape(case.name)}[/]{job}")
    if case.error is not None:
        out.print(f"  [red]✗[/] {escape(case.error)}")
    for name, why in wrong:
        out.print(f"  [red]✗[/] {escape(name)}\n    {escape(why or '')}")
    for warning in case.warnings:
        out.print(f"  [yellow]![/] {escape(warning['check'])}: {escape(warning['problem'])}")


def _summary(report: Report) -> str:
    failed, skipped = len(report.failures), report.count("skipped")
    verdict = "[green]passed[/]" if report.passed else "[red]not passed[/]"
    parts = [
        f"{verdict}: {len(report.cases) - failed} of {len(report.cases)} cases, "
        f"{report.count('passed')} expectations held, {report.count('failed')} did not"
    ]
    if skipped:
        parts.append(f"{skipped} were skipped: only a live run can judge them")
    if report.capped:
        parts.append(f"the run ended at its cost cap, {money(report.max_cost_usd)}")
    if report.mode == "live":
        cost = money(report.cost_usd) if report.cost_usd is not None else "unknown in part"
        tokens_in = sum(case.input_tokens for case in report.cases)
        tokens_out = sum(case.output_tokens for case in report.cases)
        parts.append(
            f"cost {cost}; {tokens_in:,} tokens in, {tokens_out:,} out, judges not counted"
        )
    return "; ".join(parts)
