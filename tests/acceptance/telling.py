"""`celery -A tests.acceptance.telling worker`: the worker with a task that has a webhook.

Its URL is that in `TOLD_URL`.
"""

from __future__ import annotations

import os

from worker.celery import app, registry

__all__ = ["app"]

# A frozen dataclass, so that nobody does this by mistake.
object.__setattr__(registry["summarize_text"], "webhook_url", os.environ["TOLD_URL"])
