"""`--write-docs`: docs/benchmarks.md, made from a run and never by hand."""

from __future__ import annotations

from typing import Any

from benchmarks.bars import Verdict
from benchmarks.report import tables
from benchmarks.shown import Shown

_HEAD = """\
# What a job costs

Made by `make bench`; do not edit. Everything is measured beside other queues on the same servers in
the same run. The absolute numbers are this machine's; the ratios are what to trust. Raw numbers:
[benchmarks.json](benchmarks.json).

![Worker CPU a job, calls in flight per GiB, latency, and the cost of a backlog](benchmarks.svg)
"""

_WHY = """\
## Where the time goes

A worker was watched with `py-spy record --gil` for a minute while it drained jobs at zero latency.
Of the time that its one interpreter lock was held:

| | share |
|---|--:|
| the SDK's call (`call_claude`) | 25 % |
| Celery and kombu, the consumer's thread: receive, decode, hand over, acknowledge | 26 % |
| Celery, in the job's thread | 4 % |
| events for Flower | 4 % |
| the limiter: reserve before the call, settle after it | 9 % |
| settling: one statement for result, usage and state | 9 % |
| the claim with its usage row, one statement, committed before the call | 5 % |
| the relay: its looks and its messages | 5 % |
| a line of log | 4 % |
| the price | 3 % |
| the rest: prompt, validation, checks | 6 % |

- **Jobs/s beside lean peers.** A third of the lock's time is Celery's still. The floor – threads,
  SDK, two rows – holds the lock for the SDK's call and one statement. The rest is what the lean
  peers do not do: the claim, the usage row before the call, the limiter, the relay. taskiq and arq
  run in one thread besides, where nobody waits for the lock. A consumer that takes several messages
  a round trip would help; kombu's does not. More worker processes raise the rate; calls that take
  seconds never get there.
- **500 calls of 2 s** are 250 jobs/s, about what one process can start on a core. Plain Celery
  stops at the same place.
- **Latency over a distance.** The relay's look is four round trips (lock and survey together,
  choice, mark, COMMIT), the claim one. Then kombu's Redis transport receives one message after the
  other in one thread, two round trips each; plain Celery pays those as well. What is left when idle
  are the commits: a job is on the disk when it is enqueued, dispatched and claimed.
- **enqueue-file** reaches its rate by its own clock. The rest is the start of Python and imports.

"""

_HOW = """\
## What is compared

**claude-jobs**: a worker as shipped, `classify_ticket` – the shortest task, where overhead weighs
most. The job is claimed and its usage row committed *before* the call; afterwards the reply is
validated and checked, priced, and one statement writes result, usage and state. Events for Flower
are on.

**Plain Celery** (`benchmarks/plain/`): the seed article's loop. The same prompt, input, schema and
model; a retry loop with backoff and jitter around `messages.create` of one shared SDK client,
`json.loads`, Pydantic, two rows by the SQLAlchemy ORM and a commit. Celery's defaults, threads pool
unless it says otherwise, as many threads and database connections as the other side, one line of
log a job as on the other side; events on as well, unless it says "nothing for Flower". It has no
claim, lease, price or check, does not know of a call before it returns, acknowledges the message
before it begins, and loses the job with its worker.

**The peers** (`benchmarks/peers/`) do the same job – prompt, input, schema, model, SDK call,
`json.loads`, Pydantic, two rows committed before the queue is told – but write their rows the
cheapest way there is, psycopg and one statement. arq, taskiq and procrastinate run it as a
coroutine with `AsyncAnthropic`, dramatiq and *lean Celery* (late acknowledgement, prefetch 1,
events on) by threads; rq has {rq} processes, each with its client and its connection. Each is one
worker process with {slots} jobs at a time, except rq and prefork. *No queue* is the floor: a thread
pool, the SDK and the two rows. Like plain Celery they know nothing of a call that never returned.
They have an environment of their own, `.venv-bench`.
arq {arq} declares redis-py below 6; it runs here with the one that Celery needs.

## How

**Overhead**: all workers are up and warm; the jobs wait where no worker sees them (an open
transaction; a list, or a Redis database, under another name) and are let go at once. CPU is the
user and system time of the worker's process tree, from then until all rows are committed. Rounds
alternate, and a ratio is that of two neighbouring rounds.

**A call** is measured in one thread of one process: on one side `messages.create` with a request
that is made beforehand and a reply that is dropped; on the other what an attempt does between its
two transactions – the input is validated, the prompt rendered, Claude called with a deadline, the
reply read, checked and priced. CPU is that of the process; differences and ratios are those of
neighbouring rounds.

**In flight**: a fresh worker, all jobs released at once; memory is the process tree's at its peak.
The steady pace keeps everything but the length of a call the same.

**Streams**: the worker is bound to one core, the simulated Claude to another; a chunk is four
tokens of `analyze_document`. A stream's rate is by the worker's own clock, from its first chunk to
its end. The first one takes eight seconds, so that all calls have begun before a reply ends. All
streams have a reader each, in one process, by one connection; the run before it publishes nothing.
Claude's ledger says when it sent each first text; the readers' clock is the same. Beside each run
the same requests are made by threads that read the SDK's bytes, with no queue, on the worker's
core: what else shares that core delays both.

**Latency**: half load is half of what the slower side drains, and arrives at random (exponential
gaps). Round trips are lengthened by a proxy between the worker and both servers; what enqueues goes
straight. Call starts are read from the ledger of the simulated Claude, by the same clock.

**Scale**: a database a size, filled by SQL, vacuumed and analysed, on one server; rounds take the
sizes in turn. A ratio is the median of that of each round. CPU time is judged: that of the process
which runs the statements and of the Postgres process which serves it. By the clock everything is
rounded up to the scheduler's 4 ms when the cores are busy. Jobs lie in the order in which they are
due, as they do when they come in one after the other. Where that order was at random, a look over a
million cost 1.23 × one over a thousand, by the clock: its hundred rows are on a hundred pages then.
A drain is one run a size, not in turn with others: it shows that nothing breaks down, and no more.

**Under limits** the account lets ten jobs a second through in each of three classes of models,
which is far below what the machine can do: requests bind in one class, tokens of input in
another, tokens of output in the third, the other buckets having ten times what is needed. All
three have more jobs than they can take throughout. A call takes 0.5 s and 10 ms a token. Each
contender has four worker processes – the peer four for each class, so that what waits for one
class holds up no other – and as many slots, and begins with ten seconds' worth in each bucket.
What is used is counted by the account itself. The peer fails a job when its retries are used up.
Its static limiter is told the limits and takes no more than 90 % of them; ours is told nothing.

**Saving** is what the simulated Claude's ledger billed, for the same jobs in the same order. The
workload was chosen before it was measured (`benchmarks/saving_workload.py` gives the reasons): all
four shipped tasks in equal numbers on the models that they ship with; a thousand jobs in an hour,
half of them in twelve bursts; a fifth repeats an earlier input, by Zipf's law (18 % of one
service's requests in production were exact repeats); three tenths can wait for a batch; four worked
examples in each system prompt, of the three to five that Claude's documentation advises. An hour
takes a minute: the windows of both result caches, Claude's prompt cache, batches and the time of a
reply are as many times shorter. *Plain calls* are the SDK in threads, one for each job. *The
article's way* adds the seed article's advice on costs: identical inputs are served from a cache in
Redis for a while, ten minutes as here. Neither checks its outputs, so the tasks' checks are off.
What `usage` says was saved is `full_cost_usd` less `cost_usd`: of rows that were served again, by
the result cache or by coalescing; of batches, half; of the rest, by the prompt cache. Requests in a
batch read a warm prefix here every time; the real Claude promises that to none of them.

**What to bear in mind**: the simulated Claude, Postgres, Valkey and the worker share {cores} cores,
so jobs/s is what all of them manage together, not what one worker could do alone. The network is
loopback without TLS. Postgres runs with `fsync` on, Valkey with an append-only file synced every
second. The load average was {load} when the run began, and {after} over its last quarter of an
hour{busy}.
"""


def document(results: dict[str, Any], verdicts: list[Verdict]) -> str:
    """The whole document."""
    where = results["conditions"]
    parts = [_HEAD, "## Bars\n", _bars(verdicts), _shortfalls(verdicts)]
    parts += ["## Numbers\n"]
    for shown in tables(results):
        parts += [f"**{shown.title}**\n", _markdown(shown)]
    parts += [
        _WHY
        + _HOW.format(
            cores=where["cores"],
            load=where["load_before"],
            after=where["load_15_after"],
            busy=": others were at work too" if where["load_15_after"] > 2.5 else "",
            slots=results["overhead"]["concurrency"],
            rq=8,
            arq=where["peers"].get("arq", ""),
        )
    ]
    parts += ["## Conditions\n", _conditions(where)]
    for part, other in results.get("measured_later", {}).items():
        parts += [
            f"Measured later, alone: *{part}*, {other['date']}, commit {other['commit']}, "
            f"load average {other['load_before']} before and {other['load_15_after']} after.\n"
        ]
    return "\n".join(parts)


def _bars(verdicts: list[Verdict]) -> str:
    rows = [
        (verdict.what, verdict.bar, verdict.measured, "met" if verdict.met else "**missed**")
        for verdict in verdicts
    ]
    return _markdown(Shown("", ("bar", "asked", "measured", ""), rows))


def _shortfalls(verdicts: list[Verdict]) -> str:
    missed = [verdict for verdict in verdicts if not verdict.met]
    if not missed:
        return "Nothing fell short in this run.\n"
    listed = "".join(f"- {v.what}: {v.measured}, asked {v.bar}\n" for v in missed)
    return f"What falls short:\n\n{listed}"


def _markdown(shown: Shown) -> str:
    lines = [
        "| " + " | ".join(shown.columns) + " |",
        "|---" + "|--:" * (len(shown.columns) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in shown.rows),
    ]
    return "\n".join(lines) + "\n"


def _conditions(where: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in where["packages"].items())
    peers = ", ".join(f"{name} {number}" for name, number in where["peers"].items())
    return (
        f"{where['date']}, commit {where['commit']}; "
        f"{where['cores']} cores ({where['cpu']}), {where['memory_gb']} GB, {where['system']}; "
        f"Python {where['python']}, Postgres {where['postgres']}, Valkey {where['valkey']}; "
        f"{packages}; peers: {peers or 'not installed'}.\n"
    )
