"""Judge whether an output of another task meets a rubric, for `claude-jobs prompts test --live`."""

from __future__ import annotations

from pydantic import Field

from worker.engine.task import Task, TaskInput, TaskOutput


class Input(TaskInput):
    rubric: str = Field(min_length=1, max_length=2000)
    input: str = Field(min_length=1)
    output: str = Field(min_length=1)


class Output(TaskOutput):
    """The reason comes first: a verdict that follows it is the better one."""

    reason: str
    passed: bool


def reason_is_given(input: Input, output: Output) -> str | None:
    return None if output.reason.strip() else "there is no reason"


# Asked twice, it is meant to judge twice: whether it agrees with itself is worth knowing.
judge_output = Task(
    name="judge_output", input=Input, output=Output, checks=[reason_is_given], cache_seconds=0
)
