"""`celery -A tests.chaos.impatient worker`: starts although the broker redelivers running jobs.

The worker's own check refuses such a visibility timeout: this takes the check away, nothing else.
"""

from __future__ import annotations

import worker.celery as root
from worker.celery import app

__all__ = ["app"]

root.check_visibility = lambda settings, registry: None
