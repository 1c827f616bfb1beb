"""The floor: threads and the SDK, no queue. Over Redis comes only how many jobs to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

from redis import Redis

from benchmarks.peers.job import BROKER, CONCURRENCY, Job, begin_process
from sandbox.samples import load_samples

KEY = "floor"


def main() -> None:
    """Do as many jobs as each message says, until SIGTERM."""
    begin_process()
    client, job = Redis.from_url(BROKER, socket_timeout=None), Job()
    samples = load_samples("classify_ticket")
    with ThreadPoolExecutor(CONCURRENCY) as threads:
        print("floor is ready", flush=True)
        while True:
            _, jobs = client.blpop([KEY])
            for number, values in enumerate(islice(cycle(samples), int(jobs))):
                threads.submit(job.run, f"{number}", f"user-{number}", **values)


if __name__ == "__main__":
    main()
