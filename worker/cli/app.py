"""Gathers the commands; each group of them is a module."""

from __future__ import annotations

import typer

from worker.cli import (
    admin,
    alerts,
    batches,
    budgets,
    compare,
    enqueue,
    fleet,
    gateway,
    grants,
    inspect,
    keys,
    operate,
    prompts,
    prompttest,
    releases,
    report,
    review,
    usage,
    watch,
    watches,
    webhooks,
)

app = typer.Typer(
    name="claude-jobs",
    help="Enqueue generation jobs for Claude, look at them, and look after them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

prompts_app = typer.Typer(
    help="The prompts: their versions, what speaks for each, and which of them serve.",
    no_args_is_help=True,
)
prompts_app.command("list")(prompts.list_versions)
prompts_app.command("diff")(prompts.diff)
prompts_app.command("check")(prompts.check)
prompts_app.command("lock")(prompts.lock)
prompts_app.command("test")(prompttest.run_cases)
prompts_app.command("review")(review.review)
prompts_app.command("release")(releases.release)
prompts_app.command("rollback")(releases.rollback)
prompts_app.command("history")(releases.history)
prompts_app.command("compare")(compare.compare)
prompts_app.command("watches")(watches.watches)

app.command("enqueue")(enqueue.enqueue)
app.command("enqueue-file")(enqueue.enqueue_file)
app.command("watch")(watch.watch)
app.command("show")(inspect.show)
app.command("list")(inspect.list_jobs)
app.command("status")(fleet.status)
app.command("health")(fleet.health)
app.command("cancel")(operate.cancel)
app.command("failed")(operate.failed)
app.command("requeue")(operate.requeue)
app.command("pause")(operate.pause)
app.command("resume")(operate.resume)
app.command("tasks")(inspect.tasks)
app.command("report")(report.report)
app.command("api")(gateway.api)
app.command("config")(admin.config)
app.command("migrate")(admin.migrate)
app.add_typer(prompts_app, name="prompts")
app.add_typer(usage.usage, name="usage")
app.add_typer(alerts.alerts, name="alerts")
app.add_typer(budgets.budgets, name="budgets")
app.add_typer(batches.batches, name="batches")
app.add_typer(keys.keys, name="keys")
app.add_typer(grants.grants, name="grants")
app.add_typer(webhooks.webhooks, name="webhooks")
