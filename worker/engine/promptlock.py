"""The lock file of prompts: a released version never changes.

`prompts/versions.lock` maps `name/version` to the hash of what reaches Claude. CI checks it; the
rows in `usage` and `results` that name a version then always mean the same text.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from worker.engine.prompts import PromptLibrary, version_key
from worker.errors import ConfigurationError

_FILE = "versions.lock"
_LOCK = TypeAdapter(dict[str, str])


def lock(prompts: PromptLibrary, folder: Path) -> list[str]:
    """Add the versions that are not locked yet; returns their names.

    Raises:
        ConfigurationError: a locked version was edited or removed.
    """
    locked = _read(folder)
    _refuse_changes(prompts, locked)
    current = _hashes(prompts)
    added = [name for name in current if name not in locked]
    if added:
        text = json.dumps(current, indent=2) + "\n"
        (folder / _FILE).write_text(text, encoding="utf-8")
    return added


def check(prompts: PromptLibrary, folder: Path) -> None:
    """Compare the prompts with the lock file.

    Raises:
        ConfigurationError: names the first version that differs, and what to do instead.
    """
    locked = _read(folder)
    _refuse_changes(prompts, locked)
    for name in _hashes(prompts):
        if name not in locked:
            raise ConfigurationError(
                f"prompt {name} is not in {_FILE}: run `claude-jobs prompts lock` and commit it"
            )


def _refuse_changes(prompts: PromptLibrary, locked: dict[str, str]) -> None:
    current = _hashes(prompts)
    for name, digest in locked.items():
        if name not in current:
            raise ConfigurationError(
                f"prompt {name} was released and is gone: rows refer to it, so restore the file"
            )
        if current[name] != digest:
            prompt = name.partition("/")[0]
            raise ConfigurationError(
                f"prompt {name} was released and has been edited: restore it and put the change "
                f"into a new file, prompts/{prompt}/{_next(prompts.versions(prompt)[-1])}.toml"
            )


def _hashes(prompts: PromptLibrary) -> dict[str, str]:
    return {f"{prompt.name}/{prompt.version}": prompt.sha256 for prompt in prompts}


def _next(version: str) -> str:
    *head, last = version_key(version)
    return ".".join(map(str, [*head, last + 1]))


def _read(folder: Path) -> dict[str, str]:
    path = folder / _FILE
    if not path.exists():
        return {}
    try:
        return _LOCK.validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise ConfigurationError(f"{path} is not a lock file: {reason}") from None
