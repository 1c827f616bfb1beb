"""How close to Claude's limits the limiter keeps a fleet, and what a decision costs.

`python -m benchmarks.limiter [part of a scenario's name]` prints both; it takes two minutes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import uniform

from benchmarks.limitsim import MODEL, Outcome, Scenario, simulate
from sandbox.valkey import Valkey
from worker.limits.limiter import Limiter
from worker.limits.types import Cost
from worker.settings import Settings

SCENARIOS: dict[str, tuple[Scenario, int]] = {}
for _headers in ("arrival", "completion"):
    SCENARIOS |= {
        f"requests bind, headers at {_headers}": (
            Scenario((600, 6e6, 2.4e6), headers_at=_headers),
            0,
        ),
        f"input binds, headers at {_headers}": (
            Scenario((6000, 600e3, 2.4e6), headers_at=_headers),
            1,
        ),
        f"output binds, headers at {_headers}": (
            Scenario((6000, 6e6, 240e3), headers_at=_headers),
            2,
        ),
        f"output binds, 20 s a call, headers at {_headers}": (
            Scenario((6000, 6e6, 240e3), headers_at=_headers, latency=20, workers=200),
            2,
        ),
        f"limit halved at 120 s, headers at {_headers}": (
            Scenario((6000, 600e3, 2.4e6), headers_at=_headers, changes=((120, 0.5),)),
            1,
        ),
        f"limit doubled at 120 s, headers at {_headers}": (
            Scenario((6000, 300e3, 2.4e6), headers_at=_headers, changes=((120, 2.0),)),
            1,
        ),
        f"output halved at 120 s, headers at {_headers}": (
            Scenario((6000, 6e6, 240e3), headers_at=_headers, changes=((120, 0.5),)),
            2,
        ),
        f"others use 40 % (input binds), headers at {_headers}": (
            Scenario((6000, 600e3, 2.4e6), headers_at=_headers, others=0.4),
            1,
        ),
        f"others use 40 % (output binds), headers at {_headers}": (
            Scenario((6000, 6e6, 240e3), headers_at=_headers, others=0.4),
            2,
        ),
        f"others use 40 % (output binds), our share is 60 %, headers at {_headers}": (
            Scenario((6000, 6e6, 240e3), headers_at=_headers, others=0.4, share=0.6),
            2,
        ),
        f"flushed at 120 s, headers at {_headers}": (
            Scenario((6000, 600e3, 2.4e6), headers_at=_headers, flush_at=120),
            1,
        ),
    }


def report(name: str, scenario: Scenario, bucket: int, outcome: Outcome) -> Iterator[str]:
    limit = scenario.limits[bucket]
    end = scenario.seconds
    last = 1.0 if not scenario.changes else scenario.changes[-1][1]
    before = min([second for second, _ in scenario.changes] or [end])
    yield name
    steady = outcome.rate(bucket, 30, before) / limit
    yield f"  {steady:6.1%} of the limit from 30 s to {before:.0f} s"
    if scenario.changes:
        for begin, finish in ((before, before + 30), (before + 30, end)):
            part = outcome.rate(bucket, begin, finish) / limit / last
            yield f"  {part:6.1%} of the new limit from {begin:.0f} s to {finish:.0f} s"
    yield (
        f"  {outcome.refused / max(1, outcome.sent):6.2%} 429s ({outcome.refused} of "
        f"{outcome.sent})"
    )


_COST = Cost(1000, 400)
_PLENTY = {
    f"anthropic-ratelimit-{name}-{what}": "1000000000"
    for name in ("requests", "input-tokens", "output-tokens")
    for what in ("limit", "remaining")
}


def decide(limiter: Limiter, times: int, pause: float = 0.0) -> list[float]:
    """The milliseconds that each `admit` took; each is settled at once."""
    taken = []
    for _ in range(times):
        time.sleep(uniform(0, 2 * pause))
        began = time.perf_counter()
        admission = limiter.admit(MODEL, _COST, 10)
        taken.append((time.perf_counter() - began) * 1e3)
        if admission.reservation is not None:
            limiter.settle(admission.reservation, _COST, _PLENTY)
    return taken


def decisions(url: str) -> Iterator[str]:
    """What `admit` costs: one caller, 500 threads at 200 calls a second, 1,000 threads at once."""
    limiter = Limiter(Settings(DATABASE_URL="postgresql://127.0.0.1:9/none", REDIS_URL=url))
    decide(limiter, 100)
    for label, threads, times, pause in (
        ("one thread", 1, 5000, 0.0),
        ("500 threads, 200 a second", 500, 6, 2.5),
        ("1,000 threads at once", 1000, 1, 0.0),
    ):
        taken: list[float] = []
        barrier = threading.Barrier(threads)

        def ask(times: int = times, pause: float = pause) -> None:
            barrier.wait()  # noqa: B023 – joined before the next turn
            taken.extend(decide(limiter, times, pause))  # noqa: B023

        crowd = [threading.Thread(target=ask) for _ in range(threads)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        taken.sort()
        middle, late = taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
        yield f"admit, {label}: p50 {middle:.2f} ms, p99 {late:.2f} ms"
    limiter.close()


def main(pattern: str = "") -> None:
    folder = Path(tempfile.mkdtemp(prefix="claude-jobs-"))
    folder.chmod(0o711)
    try:
        with Valkey(folder / "valkey", durable=False) as server:
            for line in decisions(server.url):
                print(line)
            for name, (scenario, bucket) in SCENARIOS.items():
                if pattern in name:
                    for line in report(name, scenario, bucket, simulate(server.url, scenario)):
                        print(line)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
