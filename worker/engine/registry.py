"""The tasks and prompts of this process, checked against each other."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

from worker.engine.prompts import PromptLibrary, get_prompts
from worker.engine.task import Task
from worker.errors import ConfigurationError, UnknownTask

AnyTask = Task[Any, Any]


def discover(package: ModuleType) -> dict[str, AnyTask]:
    """Import every module of `package`; each must define one task that is named like its file.

    Raises:
        ConfigurationError: a module defines no such task.
    """
    tasks = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{module_info.name}")
        task = getattr(module, module_info.name, None)
        if not isinstance(task, Task) or task.name != module_info.name:
            raise ConfigurationError(
                f"tasks/{module_info.name}.py must define {module_info.name} = "
                f'Task(name="{module_info.name}", …)'
            )
        tasks[task.name] = task
    return tasks


class Registry(Mapping[str, AnyTask]):
    """Tasks by name, with the prompts that they use."""

    def __init__(self, tasks: Mapping[str, AnyTask], prompts: PromptLibrary) -> None:
        self._tasks = dict(tasks)
        self.prompts = prompts
        for task in self._tasks.values():
            for version in prompts.versions(task.prompt):
                prompts.get(task.prompt, version).check(task.fields)

    def __getitem__(self, name: str) -> AnyTask:
        """The task of that name.

        Raises:
            UnknownTask: there is none; the message lists those there are.
        """
        try:
            return self._tasks[name]
        except KeyError:
            raise UnknownTask(
                f"unknown task {name!r}; there are {', '.join(sorted(self._tasks))}"
            ) from None

    def models(self) -> dict[str, str]:
        """The model that each task runs on unless a job says otherwise."""
        return {name: self.prompts.get(task.prompt).file.model for name, task in self.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


@lru_cache(maxsize=1)
def load_registry() -> Registry:
    """The tasks in `tasks/` and the prompts in the configured folder, loaded once.

    Raises:
        ConfigurationError: a task or a prompt is not valid, or they do not fit each other.
    """
    package = importlib.import_module("tasks")
    return Registry(package.registry, get_prompts())
