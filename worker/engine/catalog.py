"""Exact prompt versions: from the folder, or else from the database.

The folder of a worker may lack a version – it was deployed before the version was written, or after
it was removed – but whoever releases, reviews or runs a version has left its content in
`prompt_versions`.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError
from sqlalchemy import Connection

from worker.engine.pins import SHORT_HASH
from worker.engine.prompts import Prompt, PromptFile, PromptLibrary
from worker.engine.registry import AnyTask
from worker.errors import UnknownPromptVersion
from worker.storage import releases


def register(connection: Connection, prompts: Iterable[Prompt]) -> None:
    """Leave these versions in the database, for workers that do not have their files."""
    for prompt in prompts:
        content = prompt.file.model_dump_json()
        releases.register_version(connection, prompt.name, prompt.version, prompt.sha256, content)


class Catalog:
    """Finds exact versions; safe to use from any thread."""

    def __init__(self, folder: PromptLibrary) -> None:
        self._folder = folder
        self._found: dict[tuple[str, str, str], Prompt] = {}

    def find(
        self, connection: Connection, task: AnyTask, version: str | None, sha256: str = ""
    ) -> Prompt:
        """The version of the task's prompt (None: the folder's highest) whose hash begins so.

        Raises:
            UnknownPromptVersion: neither the folder nor the database has it.
            ConfigurationError: it does not fit the task's input.
        """
        found = self.known(task, version, sha256)
        if found is None:
            assert version is not None  # noqa: S101 – the folder has its highest
            found = load(connection, task.prompt, version, sha256)
            found.check(task.fields)
            self._found[task.name, version, sha256] = found
        return found

    def known(self, task: AnyTask, version: str | None, sha256: str = "") -> Prompt | None:
        """The same without the database: None if only that may have it.

        Raises:
            UnknownPromptVersion: only the folder could have it, and it does not.
        """
        folder, name = self._folder, task.prompt
        if version is None or not sha256:
            return folder.get(name, version)
        if folder.has(name, version) and folder.get(name, version).sha256.startswith(sha256):
            return folder.get(name, version)
        return self._found.get((task.name, version, sha256))


def load(connection: Connection, name: str, version: str, sha256: str) -> Prompt:
    """The version of a prompt as it was left in the database.

    Raises:
        UnknownPromptVersion: it was not, or `sha256` is not enough to tell which.
    """
    where = f"prompt {name}/{version}@{sha256[:SHORT_HASH]}"
    match releases.find_versions(connection, name, version, sha256):
        case []:
            raise UnknownPromptVersion(f"{where} is in neither the folder nor the database")
        case [(full, content)]:
            try:
                prompt = Prompt(name, version, PromptFile.model_validate(content))
            except ValidationError:
                raise UnknownPromptVersion(f"{where} is not readable by this code") from None
            if prompt.sha256 != full:
                raise UnknownPromptVersion(f"{where} was changed in the database")
            return prompt
        case _:
            raise UnknownPromptVersion(f"{where} is ambiguous: give more digits of its hash")
