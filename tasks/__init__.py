"""One file a task. A new file here is found by itself; nothing else has to change.

from tasks import analyze_document

job = analyze_document.enqueue(document_type="contract", …)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from worker.engine.registry import discover

if TYPE_CHECKING:  # what `discover` does at run time, for editors and type checkers
    from tasks.analyze_document import analyze_document as analyze_document
    from tasks.classify_ticket import classify_ticket as classify_ticket
    from tasks.extract_entities import extract_entities as extract_entities
    from tasks.judge_output import judge_output as judge_output
    from tasks.summarize_text import summarize_text as summarize_text

registry = discover(sys.modules[__name__])
globals().update(registry)
