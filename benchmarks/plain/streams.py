"""The floor of streaming: a thread and an SDK stream for each reply, no queue, nothing published.

Who reads a text is the thread that its stream wakes: nothing has it sooner.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from anthropic import Anthropic

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
    sdk = Anthropic(max_retries=0, timeout=600)
    with ThreadPoolExecutor(count) as threads:
        heard = dict(threads.map(lambda request: _first_text(sdk, request), requests))
    print(json.dumps(heard), flush=True)


def _first_text(sdk: Anthropic, request: Mapping[str, Any]) -> tuple[str, float]:
    first = 0.0
    with sdk.messages.create(**request, stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                first = first or time.time()
        return stream.response.headers["request-id"], first


if __name__ == "__main__":
    main()
