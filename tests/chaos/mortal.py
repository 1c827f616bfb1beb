"""`celery -A tests.chaos.mortal worker`: a worker that is killed at a point of a batch's way.

DIE_AT names the point, DIE_TIMES says how many workers die there, and DIE_FOLDER counts them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.batches.followups import FollowUps
from worker.batches.ingest import Ingester
from worker.batches.keeper import Keeper
from worker.batches.round import Round
from worker.batches.submit import Submitter
from worker.celery import app
from worker.claude.batches import BatchClient

__all__ = ["app"]

_AT = os.environ.get("DIE_AT", "")
_FOLDER = Path(os.environ.get("DIE_FOLDER", "/nonexistent"))
_TIMES = int(os.environ.get("DIE_TIMES", "1"))

POINTS: dict[str, tuple[type, str, bool, int]] = {
    # Point: the class, the method, whether it dies after it, and the calls that are survived.
    "before the intent": (Round, "begin", False, 0),
    "with the intent uncommitted": (Round, "begin", True, 0),
    "while gathering": (Round, "_add", False, 7),
    "before the submission": (Submitter, "submit", False, 0),
    "with the right to send": (BatchClient, "create", False, 0),
    "before the record": (BatchClient, "create", True, 0),
    "before the results": (Ingester, "ingest", False, 0),
    "during the ingest": (Ingester, "_settle_one", True, 9),
    "before a follow-up": (FollowUps, "take_over", False, 1),
    "in a follow-up": (FollowUps, "_run", False, 1),
    "after the ingest": (Ingester, "ingest", True, 0),
    "while reconciling": (Keeper, "_reconcile", False, 0),
}


def _die() -> None:
    for number in range(_TIMES):
        try:
            (_FOLDER / f"death-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)


def _mortal(method: Callable[..., Any], after: bool, survived: int) -> Callable[..., Any]:
    calls = 0

    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if not after and calls > survived:
            _die()
        result = method(*args, **options)
        if after and calls > survived:
            _die()
        return result

    return wrapped


if _AT:
    _class, _name, _after, _survived = POINTS[_AT]
    setattr(_class, _name, _mortal(getattr(_class, _name), _after, _survived))
