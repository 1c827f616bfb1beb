"""What hard budgets leave the relay to send: nothing of what is held, of the rest what will fit."""

from __future__ import annotations

from collections.abc import Iterable

from worker.storage.dispatch import BudgetRoom
from worker.storage.spending import undated

#: A scope and a subject, as keys of `worker.engine.dispatch.Allowances`.
Key = tuple[str, str]


class Holds:
    """The hard budgets of one look; `fits` is how many more jobs each has room for, if it is known.

    A guess by what its calls have cost on average: what it lets through beyond the budget is put
    back before its call, at the price of a claim.
    """

    def __init__(self, rooms: Iterable[BudgetRoom]) -> None:
        self._held: set[Key] = set()
        self.fits: dict[Key, int] = {}
        for room in rooms:
            key = _key(room.scope, room.subject)
            if room.held:
                self._held.add(key)
            elif room.mean:
                fit = max(1, int(room.left / room.mean))
                self.fits[key] = min(fit, self.fits.get(key, fit))

    @property
    def users(self) -> list[str]:
        """Users whose jobs are held."""
        return [name for scope, name in self._held if scope == "budget of user"]

    def hold(self, task: str, model: str) -> bool:
        """Whether all jobs of `task` that run on `model` are held."""
        return bool(self._held) and not self._held.isdisjoint(_keys(task, model))

    def keys(self, task: str, model: str) -> list[Key]:
        """Those of `fits` that a job of `task` on `model` takes room from."""
        return [key for key in _keys(task, model) if key in self.fits] if self.fits else []


def _key(scope: str, subject: str) -> Key:
    return f"budget of {scope}", subject


def _keys(task: str, model: str) -> list[Key]:
    return [_key("all", ""), _key("task", task), _key("model", undated(model))]
