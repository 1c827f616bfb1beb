"""Prompts: one folder a prompt, one TOML file a version, immutable once released.

A version is loaded once, checked, compiled and hashed. Its hash covers what reaches Claude
(model, max_tokens, effort, system, template), so notes may be corrected later.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from worker.claude.request import CacheLifetime
from worker.errors import ConfigurationError, UnknownPromptVersion
from worker.settings import get_prompts_dir

_VERSION = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)

#: Keys that came after versions had been locked: unset, they leave a version's hash as it was.
_ADDED_LATER = {"max_tokens_ceiling", "fallback_model", "cache"}

#: The one variable that a system prompt may use: the JSON schema of the task's output.
SYSTEM_VARIABLE = "output_schema"

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class PromptFile(BaseModel):
    """The keys of a version's TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Text
    max_tokens: int = Field(gt=0)
    max_tokens_ceiling: int | None = Field(None, gt=0)
    fallback_model: Text | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    cache: CacheLifetime | None = None
    system: Text
    template: Text
    notes: str = ""


@dataclass(frozen=True)
class Prompt:
    """One version of one prompt."""

    name: str
    version: str
    file: PromptFile

    @cached_property
    def sha256(self) -> str:
        """The hash of everything in this version that reaches Claude."""
        content = self.file.model_dump(mode="json", exclude={"notes"})
        content = {k: v for k, v in content.items() if v is not None or k not in _ADDED_LATER}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _system(self) -> Template:
        return _ENVIRONMENT.from_string(self.file.system)

    @cached_property
    def _template(self) -> Template:
        return _ENVIRONMENT.from_string(self.file.template)

    @property
    def variables(self) -> frozenset[str]:
        """The variables that the template uses."""
        return _variables(self.file.template)

    def render(self, values: Mapping[str, Any], output_schema: str) -> tuple[str, str]:
        """The system prompt and the user message for an input with these `values`."""
        system = self._system.render({SYSTEM_VARIABLE: output_schema})
        return system, self._template.render(values)

    def check(self, fields: frozenset[str]) -> None:
        """Check that template and input model use the same names.

        Raises:
            ConfigurationError: they do not; the message names both sides.
        """
        where = f"prompt {self.name}/{self.version}"
        if unknown := sorted(self.variables - fields):
            raise ConfigurationError(
                f"{where}: the template uses {', '.join(unknown)}, which the input model lacks "
                f"(it has {', '.join(sorted(fields))})"
            )
        if unused := sorted(fields - self.variables):
            raise ConfigurationError(
                f"{where}: the input model has {', '.join(unused)}, which the template never uses "
                f"(it uses {', '.join(sorted(self.variables)) or 'nothing'})"
            )
        if wrong := sorted(_variables(self.file.system) - {SYSTEM_VARIABLE}):
            raise ConfigurationError(
                f"{where}: the system prompt uses {', '.join(wrong)}; it is the same for every "
                f"input and may use {SYSTEM_VARIABLE} only"
            )


class PromptLibrary:
    """All versions of all prompts in a folder."""

    def __init__(self, prompts: Mapping[str, Mapping[str, Prompt]]) -> None:
        self._prompts = prompts

    @classmethod
    def load(cls, folder: Path) -> PromptLibrary:
        """Read every `<name>/<version>.toml` under `folder`.

        Raises:
            ConfigurationError: a file is not valid; the message names the file and the key.
        """
        if not folder.is_dir():
            raise ConfigurationError(f"CLAUDE_JOBS_PROMPTS_DIR: {folder} is not a folder")
        prompts: dict[str, dict[str, Prompt]] = {}
        for path in folder.glob("*/*.toml"):
            prompts.setdefault(path.parent.name, {})[path.stem] = _load(path)
        return cls(
            {
                name: dict(sorted(versions.items(), key=lambda item: version_key(item[0])))
                for name, versions in sorted(prompts.items())
            }
        )

    def __iter__(self) -> Iterator[Prompt]:
        for versions in self._prompts.values():
            yield from versions.values()

    def versions(self, name: str) -> list[str]:
        """The versions of a prompt, oldest first (2.9 before 2.10).

        Raises:
            ConfigurationError: there is no such prompt.
        """
        if name not in self._prompts:
            raise ConfigurationError(
                f"no prompt {name!r}: add prompts/{name}/1.0.toml "
                f"(there are {', '.join(self._prompts) or 'none'})"
            )
        return list(self._prompts[name])

    def has(self, name: str, version: str) -> bool:
        """Whether the prompt has that version."""
        return version in self._prompts.get(name, ())

    def get(self, name: str, version: str | None = None) -> Prompt:
        """That version of a prompt, or its highest.

        Raises:
            UnknownPromptVersion: the prompt has no such version.
        """
        versions = self.versions(name)
        if version is None:
            return self._prompts[name][versions[-1]]
        if version not in versions:
            raise UnknownPromptVersion(
                f"prompt {name} has no version {version!r}; it has {', '.join(versions)}"
            )
        return self._prompts[name][version]


@lru_cache(maxsize=1)
def get_prompts() -> PromptLibrary:
    """The prompts in the configured folder, loaded once.

    Raises:
        ConfigurationError: one of them is not valid.
    """
    return PromptLibrary.load(get_prompts_dir())


def version_key(version: str) -> tuple[int, ...]:
    """What versions are ordered by: 2.10 comes after 2.9."""
    return tuple(int(part) for part in version.split("."))


def _variables(source: str) -> frozenset[str]:
    return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(source)))


def _load(path: Path) -> Prompt:
    where = f"prompt {path.parent.name}/{path.name}"
    if not _VERSION.fullmatch(path.stem):
        raise ConfigurationError(f"{where}: a version is numbers with dots, such as 1.0.toml")
    try:
        file = PromptFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        _variables(file.system), _variables(file.template)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{where} is not valid TOML: {error}") from None
    except TemplateSyntaxError as error:
        raise ConfigurationError(f"{where}: template error: {error.message}") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors(include_url=False)
        )
        raise ConfigurationError(f"{where}: {problems}") from None
    return Prompt(path.parent.name, path.stem, file)
