"""The tables that other services read. A column is added, never renamed.

All times are `timestamptz`. States, lanes and outcomes are text with a CHECK, so that a new value
is one migration and SQL from anywhere stays readable.
"""

from worker.storage.models import (
    alerts,
    batches,
    budgets,
    fleet,
    jobs,
    prompt_tests,
    prompts,
    reviews,
    services,
    watches,
    webhooks,
)
from worker.storage.models.base import Base
from worker.storage.models.jobs import OUTCOMES, STATES, TERMINAL_STATES

__all__ = [
    "OUTCOMES",
    "STATES",
    "TERMINAL_STATES",
    "Base",
    "alerts",
    "batches",
    "budgets",
    "fleet",
    "jobs",
    "prompt_tests",
    "prompts",
    "reviews",
    "services",
    "watches",
    "webhooks",
]
