"""`python -m benchmarks.peers.produce PEER JOBS`: enqueue by that peer's own API."""

from __future__ import annotations

import asyncio
import importlib
import sys
from itertools import cycle, islice

from sandbox.samples import load_samples


def main(peer: str, jobs: str) -> None:
    """Enqueue the samples over and over."""
    samples = islice(cycle(load_samples("classify_ticket")), int(jobs))
    module = importlib.import_module(f"benchmarks.peers.{peer}")
    asyncio.run(module.enqueue({**v, "user_id": f"user-{n}"} for n, v in enumerate(samples)))


if __name__ == "__main__":
    main(*sys.argv[1:])
