"""The floor of streaming: a thread and a client of the SDK for each reply, no queue, no Redis.

Each reads its bytes and understands none of them: the SDK's own reader of events cannot keep pace
with as many streams on one core. Who reads a text is the thread that it wakes: none has it sooner.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from ssl import SSLContext
from typing import Any

import httpx2
from anthropic import Anthropic, DefaultHttpxClient

from benchmarks.contenders import inputs
from worker.engine.choose import Choice
from worker.engine.prepare import Preparer
from worker.engine.registry import load_registry


def main() -> None:
    """Stream as many replies at once as the argument says; prints when each had its first text."""
    kind, count = sys.argv[1], int(sys.argv[2])
    registry = load_registry()
    preparer, task = Preparer(registry), registry[kind]
    prompt = registry.prompts.get(task.prompt)
    choice = Choice(task, prompt, prompt.file.model)
    requests = [preparer.prepare_input(choice, v).request.parameters() for v in inputs(count, kind)]
    certificates = httpx2.create_ssl_context()  # one for all: it takes long to build
    with ThreadPoolExecutor(count) as threads:
        heard = dict(threads.map(lambda request: _first_text(certificates, request), requests))
    print(json.dumps(heard), flush=True)


def _first_text(certificates: SSLContext, request: Mapping[str, Any]) -> tuple[str, float]:
    first = 0.0
    with (
        Anthropic(max_retries=0, http_client=DefaultHttpxClient(verify=certificates)) as sdk,
        sdk.messages.with_streaming_response.create(**request, stream=True) as stream,
    ):
        for piece in stream.http_response.iter_bytes():
            if not first and b'"text_delta"' in piece:
                first = time.time()
        return stream.headers["request-id"], first


if __name__ == "__main__":
    main()
