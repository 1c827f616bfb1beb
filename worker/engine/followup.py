"""What to ask next when a reply did not become a result: a repair, more room, another model.

Pure functions: they make a request out of a request. Each follow-up is a call of its own, with its
own usage row, within the same attempt.
"""

from __future__ import annotations

from dataclasses import replace

from worker.claude.reply import Reply
from worker.claude.request import Correction, Request
from worker.engine.judge import Rejected
from worker.engine.prompts import Prompt
from worker.engine.settling import OpenCall

#: A repair's input is at most so many times the original's.
REPAIR_INPUT_RATIO = 1.5
#: Characters of the errors' list: ten problems say as much as a hundred.
_MOST_PROBLEMS = 10
#: A path may be as long as the reply made it.
_LONGEST_PROBLEM = 200
_CLIPPED = "\n[…]"
_INSTRUCTION = (
    "That reply cannot be used:\n{}\n"
    "Reply again with the complete JSON object, corrected. Change only what the list names."
)


def mend(opened: OpenCall, request: Request, reply: Reply, rejected: Rejected) -> Request | None:
    """The request that may mend a rejected reply within the attempt; None when nothing is left."""
    task, prompt = opened.choice.task, opened.choice.prompt
    if opened.spent.beyond(task):
        return None
    match rejected.remedy:
        case "repair" if opened.spent.repairs < task.repairs:
            return repair(request, reply.text, rejected.problems)
        case "enlarge":
            return enlarge(request, prompt)
        case "fall_back":
            return fall_back(request, prompt)
    return None


def repair(request: Request, bad_output: str, problems: list[dict[str, str]]) -> Request | None:
    """The same request, with the bad output and what is wrong with it.

    Never more than that: a second repair replaces the first one's output, it does not pile up.
    Problems and output are clipped where the whole would be longer than `REPAIR_INPUT_RATIO`
    allows; None where a prompt is so short that nothing can be said.
    """
    room = int((REPAIR_INPUT_RATIO - 1) * request.input_characters())
    room -= len(_INSTRUCTION) + len(_CLIPPED)
    listed = ""
    for problem in problems[:_MOST_PROBLEMS]:
        line = f"- {_clip(problem['path'])}: {_clip(problem['problem'])}\n"
        if len(line) > room:
            break
        listed, room = listed + line, room - len(line)
    if not listed:
        return None
    if len(bad_output) > room:
        bad_output = bad_output[:room] + _CLIPPED
    return replace(request, correction=Correction(bad_output, _INSTRUCTION.replace("{}", listed)))


def _clip(text: str) -> str:
    return text if len(text) <= _LONGEST_PROBLEM else text[:_LONGEST_PROBLEM] + "…"


def enlarge(request: Request, prompt: Prompt) -> Request | None:
    """The request with twice the `max_tokens`, up to the prompt's ceiling; None once there."""
    ceiling = prompt.file.max_tokens_ceiling or prompt.file.max_tokens
    if request.max_tokens >= ceiling:
        return None
    return replace(request, max_tokens=min(request.max_tokens * 2, ceiling), correction=None)


def fall_back(request: Request, prompt: Prompt) -> Request | None:
    """The request to the prompt's `fallback_model`; None when there is none, or it was asked."""
    model = prompt.file.fallback_model
    if model is None or model == request.model:
        return None
    return replace(request, model=model, correction=None)
