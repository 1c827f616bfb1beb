"""`prompts/<name>/cases.yaml`: inputs of a prompt, and what is expected of the replies.

The file is a dataset of pydantic-evals, with the evaluators of `worker.evals.expectations` and no
others: theirs that ask a model would do so behind the queue's back.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_evals import Case, Dataset

from worker.engine.prompts import version_key
from worker.engine.registry import AnyTask
from worker.errors import ConfigurationError, InvalidInput
from worker.evals.expectations import EXPECTATIONS
from worker.evals.given import About, Given, Judge

FILE = "cases.yaml"

#: As the file has it, and as it is run.
_Written = Dataset[dict[str, Any], dict[str, Any], About]
AnyCase = Case[Given, dict[str, Any], About]
AnyDataset = Dataset[Given, dict[str, Any], About]


@dataclass(frozen=True)
class Cases:
    """The cases of a prompt; `sha256` covers inputs and expectations, not the file's layout."""

    dataset: AnyDataset
    sha256: str

    def of_version(
        self, version: str, *, live: bool = False, judge: Judge | None = None
    ) -> AnyDataset:
        """What a run of that prompt version evaluates."""
        cases = [
            Case(
                name=case.name,
                inputs=replace(case.inputs, live=live, judge=judge),
                metadata=case.metadata,
                evaluators=case.evaluators,
            )
            for case in self.dataset.cases
            if not case.metadata
            or not case.metadata.since
            or version_key(case.metadata.since) <= version_key(version)
        ]
        return Dataset(name=self.dataset.name, cases=cases, evaluators=self.dataset.evaluators)


def path_of(folder: Path, prompt: str) -> Path:
    """Where the cases of a prompt are; `folder` is the folder of prompts."""
    return folder / prompt / FILE


def load_cases(folder: Path, task: AnyTask) -> Cases:
    """The cases of a task's prompt.

    Raises:
        ConfigurationError: there are none, or something is wrong with them: one line that names
            the file, the case and the key.
    """
    path = path_of(folder, task.prompt)
    where = f"prompts/{task.prompt}/{FILE}"
    if not path.exists():
        raise ConfigurationError(
            f"prompt {task.prompt} has no cases: write {where} (docs/prompts.md shows how)"
        )
    try:
        document = _resolved(_read(path, where), path.parent, where)
        text = json.dumps(document, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigurationError(f"{where}: it holds what is no JSON: {reason}") from None
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        raise ConfigurationError(f"{where}: cases: expected a list of cases")
    if not document["cases"]:
        raise ConfigurationError(f"{where}: cases: there are none")
    general = _parsed({**document, "cases": []}, where)
    cases = [_case(task, each, where, n) for n, each in enumerate(document["cases"], start=1)]
    try:
        dataset = AnyDataset(
            name=task.prompt, cases=cases, evaluators=list[Any](general.evaluators)
        )
    except ValueError as error:  # two cases of one name
        raise ConfigurationError(f"{where}: {error}") from None
    return Cases(dataset, hashlib.sha256(text.encode()).hexdigest())


def _case(task: AnyTask, raw: Any, where: str, number: int) -> AnyCase:
    name = raw.get("name") if isinstance(raw, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(f"{where}: case {number}: name: every case needs one")
    where = f"{where}: case {name!r}"
    (case,) = _parsed({"cases": [raw]}, where).cases
    if case.expected_output is not None:
        raise ConfigurationError(f"{where}: expected_output: say it with evaluators, e.g. Equals")
    try:
        task.parse_input(case.inputs)
    except InvalidInput as error:
        raise ConfigurationError(f"{where}: inputs: {error}") from None
    return Case(
        name=name,
        inputs=Given(name, case.inputs),
        metadata=case.metadata,
        evaluators=list[Any](case.evaluators),
    )


def _parsed(document: dict[str, Any], where: str) -> _Written:
    for raw in (document, *document["cases"]):
        _refuse_unknown(raw.get("evaluators"), where)
    try:
        return _Written.from_dict(document, list(EXPECTATIONS.values()), default_name="cases")
    except ValidationError as error:
        raise ConfigurationError(f"{where}: {_first(error)}") from None
    except ExceptionGroup as group:
        cause = group.exceptions[0].__cause__
        if isinstance(cause, ValidationError):
            raise ConfigurationError(f"{where}: {cause.title}: {_first(cause)}") from None
        raise ConfigurationError(f"{where}: {cause or group.exceptions[0]}") from None


def _refuse_unknown(evaluators: Any, where: str) -> None:
    for spec in evaluators if isinstance(evaluators, list) else ():
        name = next(iter(spec), None) if isinstance(spec, dict) else spec
        if not isinstance(name, str) or name not in EXPECTATIONS:
            raise ConfigurationError(
                f"{where}: evaluators: unknown expectation {name!r}; there are "
                f"{', '.join(EXPECTATIONS)}"
            )


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in problem["loc"]]
    if path[:2] == ["cases", "0"]:  # the case is named already
        path = path[2:]
    return f"{'.'.join(path)}: {problem['msg']}" if path else problem["msg"]


class _Loader(yaml.SafeLoader):
    """A date is the text that it is in JSON. A key that is there twice is refused: PyYAML would
    take the last one and forget the other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read(path: Path, where: str) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 – a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(f"{where}{line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"{where} is not valid YAML: {reason}") from None


def _resolved(value: Any, folder: Path, where: str) -> Any:
    """`value` with every `{$file: path}` replaced by the text of that file."""
    match value:
        case {"$file": str(name), **rest} if not rest:
            try:
                return (folder / name).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigurationError(f"{where}: $file: {name}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise ConfigurationError(f"{where}: $file: {name}: not in UTF-8") from None
        case dict():
            return {key: _resolved(item, folder, where) for key, item in value.items()}
        case list():
            return [_resolved(item, folder, where) for item in value]
    return value
