"""The peer's Celery app: `celery -A benchmarks.plain.app worker`.

The article's steps in a task: a retry loop around `messages.create` of one shared client,
`json.loads`, Pydantic, a line of usage, and two rows by the ORM.
"""

from __future__ import annotations

import json
import logging
import os
import time

import celery
from anthropic import Anthropic
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from benchmarks.plain import claude
from benchmarks.plain.models import Result, Usage
from benchmarks.plain.strategies import strategy
from tasks.classify_ticket import Output

BROKER = os.environ["PLAIN_BROKER_URL"]
#: As many connections as the other side's worker has; overflow would only cost it more.
POOL = int(os.environ.get("PLAIN_POOL_SIZE", "10"))

log = logging.getLogger("token-usage")
# One line a job on either side.
for _noisy in ("httpx2", "httpcore2", "celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

app = celery.Celery("plain", broker=BROKER, set_as_current=False)
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)

client = Anthropic()
call_claude = strategy()
engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1),
    pool_size=POOL,
    max_overflow=0,
    pool_timeout=60,
)
Session = sessionmaker(engine)


@app.task(name="plain.classify_ticket", bind=True)
def classify_ticket(
    self: celery.Task,
    subject: str,
    body: str,
    categories: list[str],
    user_id: str,
    model: str = claude.MODEL,
) -> None:
    """Classify a ticket and store what came of it."""
    message = claude.template(subject, body, categories)
    started = time.monotonic()
    response = call_claude(
        lambda: client.messages.create(
            model=model,
            max_tokens=claude.MAX_TOKENS,
            system=claude.SYSTEM,
            messages=[{"role": "user", "content": message}],
            output_config=claude.OUTPUT_CONFIG,
            metadata={"user_id": user_id},
        )
    )
    latency_ms = round((time.monotonic() - started) * 1000)
    text = response.content[0].text if response.content[0].type == "text" else ""
    output = Output.model_validate(json.loads(text))
    usage = Usage(
        job_id=self.request.id,
        user_id=user_id,
        model=response.model,
        prompt_version=claude.VERSION,
        input_tokens=response.usage.input_tokens,
        output_tokens=response.usage.output_tokens,
        latency_ms=latency_ms,
    )
    log.info("%s: %s in, %s out", user_id, usage.input_tokens, usage.output_tokens)
    with Session() as session:
        session.add(
            Result(
                job_id=self.request.id,
                prompt_version=claude.VERSION,
                output=output.model_dump(mode="json"),
            )
        )
        session.add(usage)
        session.commit()
