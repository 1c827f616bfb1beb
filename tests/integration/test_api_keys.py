"""Keys: created once, found by hash, noted when used, ended for good."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from tests.integration.command import Rows, Run
from worker.storage.api_keys import create_key, digest, find_key, revoke_key, touch_key
from worker.storage.engine import transaction


def test_a_key_is_found_by_its_hash_until_it_ends(engine: Engine) -> None:
    with transaction(engine) as connection:
        key_id, key = create_key(
            connection, "shop", by="me", name="web", scopes=["read"], requests_per_minute=60
        )
        found = find_key(connection, digest(key))
        assert find_key(connection, digest(key + "x")) is None
        assert key not in str(connection.execute(text("SELECT * FROM api_keys")).all())

        assert found is not None
        assert (found.id, found.service, found.name) == (key_id, "shop", "web")
        assert (found.scopes, found.requests_per_minute) == ({"read"}, 60)

        assert revoke_key(connection, key_id) == "shop"
        assert revoke_key(connection, key_id) is None
        assert find_key(connection, digest(key)) is None


def test_a_key_expires(engine: Engine) -> None:
    now = datetime.now(UTC)
    with transaction(engine) as connection:
        _, old = create_key(connection, "shop", by="me", expires_at=now - timedelta(seconds=1))
        _, new = create_key(connection, "shop", by="me", expires_at=now + timedelta(hours=1))

        assert find_key(connection, digest(old)) is None
        assert find_key(connection, digest(new)) is not None


def test_use_is_noted_once_a_minute(engine: Engine) -> None:
    with transaction(engine) as connection:
        key_id, _ = create_key(connection, "shop", by="me")
        assert touch_key(connection, key_id)
        assert not touch_key(connection, key_id)
        connection.execute(text("UPDATE api_keys SET last_used_at = now() - interval '61 s'"))
        assert touch_key(connection, key_id)


def test_a_key_is_printed_once_listed_and_revoked(run: Run, rows: Rows) -> None:
    run("keys", "list")
    made = run(
        "keys", "create", "shop", "--name", "web", "--scope", "cancel", "--scope", "read",
        "--requests-per-minute", "600", "--expires", "90d",
    )  # fmt: skip
    key = made.out.strip()
    assert re.fullmatch(r"cj_[A-Za-z0-9_-]{43}", key)
    (row,) = rows("SELECT *, expires_at - created_at AS life FROM api_keys")
    assert row["scopes"] == ["read", "cancel"]
    assert abs(row["life"] - timedelta(days=90)) < timedelta(minutes=1)

    shown = run("keys", "list")
    assert key[:8] in shown.out
    assert key not in shown.out
    assert "until" in shown.out
    (entry,) = json.loads(run("keys", "list", "shop", "--json").out)
    assert "sha256" not in entry

    assert "of shop revoked" in run("keys", "revoke", row["id"]).err
    assert "revoked" in run("keys", "list").out
    again = run("keys", "revoke", row["id"])
    assert (again.code, again.err.splitlines()[-1]) == (1, "claude-jobs: no key was revoked")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["create", "a b"], "service 'a b': a name has up to 63"),
        (["create", "shop", "--scope", "admin"], "scope 'admin' is none of enqueue, read, cancel"),
        (["create", "shop", "--expires", "soon"], "'soon' is no age"),
        (["create", "shop", "--expires", "999999w"], "longer than a hundred years"),
        (["revoke", "12"], "'12' is not a key id (a uuid)"),
    ],
)
def test_a_wrong_argument_is_one_line(run: Run, arguments: list[str], expected: str) -> None:
    assert expected in run("keys", *arguments).line
