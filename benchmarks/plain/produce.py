"""`python -m benchmarks.plain.produce FILE.jsonl QUEUE`: one `send_task` for every line.

Prints the seconds that the sending alone took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from celery import Celery

TASK = "plain.classify_ticket"


def main(file: str, queue: str) -> None:
    """Send the lines of `file` to `queue`."""
    app = Celery(broker=os.environ["PLAIN_BROKER_URL"], set_as_current=False)
    started = time.monotonic()
    with Path(file).open(encoding="utf-8") as lines:
        for line in lines:
            app.send_task(TASK, kwargs={**json.loads(line), "user_id": "bulk"}, queue=queue)
    print(f"{time.monotonic() - started:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
