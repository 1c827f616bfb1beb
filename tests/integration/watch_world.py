"""Releases that are watched: calls that end, the loop that looks at them, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text

from worker.engine import releasing
from worker.engine.alerts import AlertLoop
from worker.engine.prompts import PromptLibrary
from worker.engine.releasewatch import ReleaseWatcher
from worker.settings import get_settings
from worker.storage import releases
from worker.storage.engine import transaction
from worker.storage.releases import Release

_INSERT = text("""
INSERT INTO usage (task, attempt, call, outcome, model, prompt, prompt_version, prompt_sha256,
                   variant, user_id, output_tokens, cost_usd, cache_write_5m_tokens, complete,
                   finished_at)
SELECT 't', :attempt, :call, :outcome, 'm', 't', :version, :sha256, :variant,
       CASE WHEN :user <> '' THEN :user END, :tokens + n % 50, :cost, :written, true, now()
FROM generate_series(1, :number) AS n
""")


def library_in(folder: Path) -> PromptLibrary:
    """Versions 1.0, 1.1 and 1.2 of the prompt `t`."""
    (folder / "t").mkdir()
    for version in ("1.0", "1.1", "1.2"):
        content = f"model = 'm-{version}'\nmax_tokens = 9\nsystem = 's'\ntemplate = '{{{{ x }}}}'\n"
        (folder / "t" / f"{version}.toml").write_text(content)
    return PromptLibrary.load(folder)


class World:
    """Releases, calls that end, and the loop that looks at them."""

    def __init__(self, library: PromptLibrary) -> None:
        self.library = library

    def release(self, **shares: float) -> Release:
        """`v1_0=90, v1_1=10`."""
        points = {k[1:].replace("_", "."): round(v * 100) for k, v in shares.items()}
        with transaction() as connection:
            return releasing.release(connection, self.library, "t", points, by="ada")

    def rollback(self) -> Release:
        with transaction() as connection:
            made = releasing.rollback(connection, self.library, "t", by="bob")
        assert made is not None
        return made

    def calls(
        self, number: int, version: str, variant: str | Release = "highest", **columns: Any
    ) -> None:
        values = {
            "attempt": 1,
            "call": 1,
            "outcome": "ok",
            "tokens": 400,
            "cost": 0.002,
            "written": 0,
            "user": "",
            "sha256": self.library.get("t", version).sha256,
        }
        chosen = variant if isinstance(variant, str) else f"release:{variant.id}"
        row = values | columns | {"number": number, "version": version, "variant": chosen}
        with transaction() as connection:
            connection.execute(_INSERT, row)

    def loop(self, mode: str = "rollback") -> AlertLoop:
        settings = get_settings().model_copy(update={"watchdog": mode})
        return AlertLoop({"t": 10**6}, ReleaseWatcher(settings, self.library))

    def look(self, mode: str = "rollback") -> None:
        loop = self.loop(mode)
        while loop.step() == 0:
            pass

    def baseline(self, number: int = 300) -> None:
        self.calls(number, "1.0")
        self.look()


def rows(statement: str) -> Sequence[Any]:
    with transaction() as connection:
        return connection.execute(text(statement)).mappings().all()


def alerts() -> Sequence[Any]:
    return rows("SELECT * FROM alerts WHERE kind LIKE 'release%' ORDER BY first_at, kind")


def states() -> list[str]:
    return [row["state"] for row in rows("SELECT state FROM release_watches ORDER BY release_id")]


def newest() -> Release:
    with transaction() as connection:
        return releases.history(connection, "t")[0]
