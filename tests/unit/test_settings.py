from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.errors import ConfigurationError
from worker.settings import RUNTIME_FILE, Settings, get_settings, variable_name


def complaint(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        get_settings()
    return str(caught.value)


def test_every_missing_variable_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = complaint(monkeypatch, DATABASE_URL="", REDIS_URL="")

    assert "DATABASE_URL is not set" in line
    assert "REDIS_URL is not set" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "s3cret"),
        ("DATABASE_URL", "postgresql://user:s3cret@host:port/name"),
        ("DATABASE_URL", "postgresql://user:s3cret@[::1/name"),
        ("DATABASE_URL", "mysql://user:s3cret@host/name"),
        ("REDIS_URL", "s3cret"),
        ("REDIS_URL", "http://:s3cret@host"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://:s3cret@host:port/0"),
        ("REDIS_URL", "redis://:s3cret@host:99999/0"),
        ("REDIS_URL", "redis://:s3cret@[::1"),
        ("REDIS_URL", "redis://:s3cret@host/name"),
        ("CELERY_BROKER_URL", "s3cret"),
        ("CELERY_BROKER_URL", "amqp://user:s3cret@host:port//"),
        ("CELERY_BROKER_URL", "redis://:s3cret@host:port/0"),
        ("ANTHROPIC_BASE_URL", "s3cret"),
        ("ANTHROPIC_BASE_URL", "ftp://user:s3cret@host"),
        ("CLAUDE_JOBS_ALERT_WEBHOOK_URL", "s3cret"),
        ("CLAUDE_JOBS_ALERT_WEBHOOK_URL", "ftp://host/s3cret"),
        ("CLAUDE_JOBS_ALERT_WEBHOOK_URL", "https:///s3cret"),
        ("CLAUDE_JOBS_ALERT_WEBHOOK_URL", "https://host:port/s3cret"),
        ("CLAUDE_JOBS_ALERT_WEBHOOK_URL", "https://host/s3cret\n"),
        ("CLAUDE_JOBS_ALERT_WEBHOOK_URL", "https://höst/s3cret"),
        ("CLAUDE_JOBS_ENVIRONMENT", "s3cret"),
        ("CLAUDE_JOBS_LOG_LEVEL", "s3cret"),
        ("CLAUDE_JOBS_CONCURRENCY", "s3cret"),
        ("CLAUDE_JOBS_CONCURRENCY", "0"),
        ("CLAUDE_JOBS_MAX_INPUT_BYTES", "-1"),
        ("CLAUDE_JOBS_LEASE_SECONDS", "inf"),
        ("CLAUDE_JOBS_POLL_SECONDS", "nan"),
    ],
)
def test_a_malformed_value_is_one_line_that_names_the_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    line = complaint(monkeypatch, **{variable: value})

    assert line.startswith(f"{variable} ")
    assert "\n" not in line
    assert "s3cret" not in line


def test_the_urls_in_use_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://user:p%40ss@host/name?sslmode=require")
    monkeypatch.setenv("REDIS_URL", "rediss://:secret@host:6380/3")
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://user:secret@host:5672//")

    settings = get_settings()

    assert settings.database_url == "postgresql://user:p%40ss@host/name?sslmode=require"
    assert settings.broker_url == "amqp://user:secret@host:5672//"


def test_the_broker_is_redis_unless_another_is_named() -> None:
    assert get_settings().broker_url == get_settings().redis_url


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        get_settings().concurrency = 1  # type: ignore[misc]


def test_no_secret_is_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-hunter2")
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "admin:hunter2")
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://user:hunter2@host//")
    monkeypatch.setenv("CLAUDE_JOBS_ALERT_WEBHOOK_URL", "https://hooks.example/hunter2")

    assert "hunter2" not in repr(get_settings())
    assert "hunter2" not in str(get_settings())


def test_a_running_sandbox_fills_in_what_the_environment_leaves_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = tmp_path / RUNTIME_FILE
    runtime.parent.mkdir()
    runtime.write_text("DATABASE_URL='postgresql://sandbox/db'\nREDIS_URL='redis://sandbox/5'\n")
    monkeypatch.delenv("DATABASE_URL")

    assert get_settings().database_url == "postgresql://sandbox/db"
    assert "127.0.0.1" in get_settings().redis_url


def test_every_setting_has_a_variable_of_its_own_and_a_description() -> None:
    names = [variable_name(field) for field in Settings.model_fields]

    assert len(set(names)) == len(names)
    assert all(field.description for field in Settings.model_fields.values())
