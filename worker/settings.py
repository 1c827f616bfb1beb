"""The configuration, read once from the environment – and nowhere else.

`DATABASE_URL`, `REDIS_URL`, `CELERY_BROKER_URL` and the SDK's own `ANTHROPIC_API_KEY` and
`ANTHROPIC_BASE_URL` go by their usual names; everything else is `CLAUDE_JOBS_*`. What the
environment does not set is taken from a running sandbox (`make up`), if there is one.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.api_settings import ApiSettings
from worker.errors import ConfigurationError
from worker.setting_types import (
    BrokerUrl,
    HttpUrl,
    Limits,
    MostRunning,
    PostgresUrl,
    RedisUrl,
    SecretHttpUrl,
    WebhookSecrets,
)

#: Written by the sandbox while it runs (mode 0600), relative to the working directory.
RUNTIME_FILE = Path(".sandbox/runtime.env")
PROJECT = Path(__file__).resolve().parent.parent


class Settings(ApiSettings):
    """Every setting, with its default and the risk of changing it; frozen once read."""

    model_config = SettingsConfigDict(
        env_prefix="CLAUDE_JOBS_",
        env_file=RUNTIME_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: PostgresUrl = Field(
        validation_alias="DATABASE_URL",
        repr=False,
        description="Postgres, the owner of every job.",
    )
    redis_url: RedisUrl = Field(
        validation_alias="REDIS_URL",
        repr=False,
        description="Redis or Valkey for limits, cache and streams.",
    )
    celery_broker_url: BrokerUrl | None = Field(
        None,
        validation_alias="CELERY_BROKER_URL",
        repr=False,
        description="Celery's broker. Defaults to REDIS_URL; amqp://… works too.",
    )
    anthropic_api_key: SecretStr | None = Field(
        None,
        validation_alias="ANTHROPIC_API_KEY",
        description="Needed by workers only.",
    )
    anthropic_base_url: HttpUrl = Field(
        "https://api.anthropic.com",
        validation_alias="ANTHROPIC_BASE_URL",
        description="Where Claude is; the sandbox points it at the simulated one.",
    )
    environment: Literal["development", "production"] = Field(
        "development",
        description="`production` makes Flower refuse to start without a login and logs JSON.",
    )
    flower_basic_auth: SecretStr | None = Field(
        None,
        validation_alias="FLOWER_BASIC_AUTH",
        description="Flower's login, as user:password (several with commas).",
    )
    flower_auth: str | None = Field(
        None,
        validation_alias="FLOWER_AUTH",
        description="Flower's OAuth: which accounts may log in; see Flower's documentation.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least severe level that is logged."
    )
    prompts_dir: Path = Field(
        PROJECT / "prompts", description="The folder of prompts; one folder a prompt."
    )
    prices_file: Path | None = Field(
        None,
        description="A TOML file of negotiated prices or discounts, which go before the public "
        "price list. Workers read it when they start; see docs/operations.md.",
    )
    max_input_bytes: int = Field(
        4_000_000,
        gt=0,
        description="The largest input of a job, as JSON in UTF-8. Each one is kept in Postgres.",
    )
    concurrency: int = Field(
        500,
        gt=0,
        description="Calls in flight per worker process, one thread each. A call waits, it does "
        "not compute: start one process per core before lowering this.",
    )
    database_pool_size: int = Field(
        10,
        gt=0,
        description="Connections per worker process. Threads share them: a job holds one for "
        "milliseconds, never while Claude is thinking.",
    )
    working_set: int = Field(
        1000,
        gt=0,
        description="Jobs that may wait in the broker, fleet-wide. Everything beyond stays in "
        "Postgres, where priority still counts. Below the fleet's slots, slots stay empty.",
    )
    max_running_per_user: int | None = Field(
        None,
        gt=0,
        description="Jobs of one user_id that may be dispatched or running at once, fleet-wide. "
        "Unset: a user with many jobs can take every slot.",
    )
    max_running_per_task: MostRunning = Field(
        {},
        description='The same for tasks, as JSON: {"analyze_document": 50}.',
    )
    poll_seconds: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="How often a relay looks for due jobs when no NOTIFY wakes it; the "
        "resolution of run_at and of retries.",
    )
    limits: Limits = Field(
        {},
        description="Caps on what is used of Claude's limits a minute, by model class, as JSON: "
        '{"claude-sonnet-5": {"requests": 1000, "input_tokens": 400000, "output_tokens": 80000}}. '
        "The limits themselves are learned from Claude's responses.",
    )
    limit_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The part of Claude's limits that this fleet may use, where others share the "
        "account.",
    )
    prompt_cache_wait_seconds: float = Field(
        10.0,
        ge=0,
        le=60,
        description="How long a job waits in its slot at most for another one to fill Claude's "
        "prompt cache with the system prompt that both have; see docs/prompt-caching.md. Shorter "
        "than Claude takes to begin a reply, the wait is in vain. 0: nobody waits, and each call "
        "that is made meanwhile pays for the write.",
    )
    lease_seconds: float = Field(
        30.0,
        ge=2,
        allow_inf_nan=False,
        description="A worker that has not renewed its lease for so long is taken for dead.",
    )
    stall_seconds: float = Field(
        20.0,
        gt=0,
        allow_inf_nan=False,
        description="A streamed reply that has begun and then sends nothing for so long is given "
        "up. A ping counts as a sign of life; before the stream begins, the call timeout counts.",
    )
    stream_ttl_seconds: int = Field(
        600,
        ge=10,
        le=86400,
        description="A stream in Redis to which nothing is added for so long is deleted; that of a "
        "job that has ended, after a minute at most.",
    )
    stream_max_bytes: int = Field(
        2_000_000,
        ge=0,
        description="Of one call's text, at most so much is kept in Redis for those who follow it; "
        "the rest comes with the result. 0: nothing is published, though replies are still "
        "received as they are written.",
    )
    shutdown_grace_seconds: float = Field(
        25.0,
        ge=0,
        allow_inf_nan=False,
        description="After SIGTERM, running calls may finish for so long; the rest is cut off, "
        "put back without spending an attempt, and billed for what was written. Keep it below "
        "what your orchestrator waits before SIGKILL (Kubernetes: 30 s).",
    )
    visibility_seconds: int = Field(
        3600,
        gt=0,
        description="Redis delivers a message again that was not acknowledged for so long. Must be "
        "above every task's call_timeout; a second message finds the job claimed.",
    )
    redispatch_seconds: float = Field(
        20.0,
        ge=1,
        allow_inf_nan=False,
        description="A message that nobody took for so long, although slots are free, is lost and "
        "sent again.",
    )
    keep_succeeded_days: float | None = Field(
        None, gt=0, description="Succeeded jobs and their results are deleted after so many days."
    )
    keep_failed_days: float | None = Field(
        None, gt=0, description="Failed jobs are deleted after so many days."
    )
    keep_cancelled_days: float | None = Field(
        30, gt=0, description="Cancelled jobs are deleted after so many days."
    )
    cache_seconds: float = Field(
        600.0,
        ge=0,
        allow_inf_nan=False,
        description="For so long a result is served again to jobs that make the identical request, "
        "unless their task says otherwise; jobs that make it at the same time share one call. "
        "0: off for all tasks. See docs/caching.md.",
    )
    prompt_test_max_cost: Decimal = Field(
        Decimal(1),
        gt=0,
        allow_inf_nan=False,
        description="US dollars after which `claude-jobs prompts test --live` sends no more jobs.",
    )
    alert_webhook_url: SecretHttpUrl | None = Field(
        None,
        description="Alerts are posted there as JSON that Slack understands, and retried for a "
        "day. Without it they are logged and kept: see `claude-jobs alerts`.",
    )
    webhook_secret: WebhookSecrets | None = Field(
        None,
        description="Signs what is posted to jobs' webhooks: whsec_ and 24 to 64 bytes in base64. "
        "Two, separated by a space, while receivers change from one to the other. Without it "
        "nothing is posted; see docs/webhooks.md.",
    )
    webhook_output: bool = Field(
        False,
        description="Post a job's output along with its end. Whoever may enqueue says where to.",
    )
    webhook_allow_private: bool = Field(
        False,
        description="Let jobs' webhooks point to private, loopback and link-local addresses. "
        "Whoever may enqueue can then make workers post to whatever they can reach.",
    )
    keep_webhooks_days: float = Field(
        30, ge=1, description="The log of webhook deliveries is deleted after so many days."
    )

    batch_deadline_hours: float = Field(
        26.0,
        ge=24.5,
        le=8760,
        description="A job whose deadline is further away goes into a Message Batch at half the "
        "price, unless its lane says otherwise. A batch takes up to 24 hours; what it leaves "
        "undone is run at full price in the time that is left.",
    )
    batch_wait_minutes: float = Field(
        15.0,
        ge=0,
        le=1440,
        description="A batch is submitted when its oldest job has waited so long. Shorter: more "
        "and smaller batches, which cost the same.",
    )
    batch_max_requests: int = Field(
        10_000,
        gt=0,
        le=100_000,
        description="Requests of one Message Batch; so many waiting jobs are not kept waiting. "
        "The API takes 100,000.",
    )
    batch_max_bytes: int = Field(
        32_000_000,
        ge=10_000,
        le=250_000_000,
        description="Bytes of one Message Batch; a single larger job goes alone. A worker holds a "
        "batch in memory while it submits it, up to three times. The API takes 256 MB.",
    )
    batch_poll_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="How often a Message Batch is looked at, at most five times as often at first.",
    )
    batch_confirm_seconds: float = Field(
        600.0,
        ge=1,
        allow_inf_nan=False,
        description="When the answer to a submission was lost, the batch is looked for in the "
        "API's list for so long before its jobs are taken for not submitted. Too short: a batch "
        "that appears late is paid for twice.",
    )

    watchdog: Literal["off", "alert", "rollback"] = Field(
        "alert",
        description="What follows when a version that was just released is worse than the one it "
        "replaced: an alert, or a rollback as well. See docs/prompts.md.",
    )
    watch_invalid_points: float = Field(
        5.0,
        gt=0,
        lt=100,
        description="How many points more of a new version's first replies may be invalid.",
    )
    watch_refused_points: float = Field(
        5.0,
        gt=0,
        lt=100,
        description="How many points more may be refused or cut off.",
    )
    watch_length_factor: float = Field(
        1.5,
        ge=1,
        allow_inf_nan=False,
        description="How many times as long replies may become.",
    )
    watch_cost_factor: float = Field(
        1.5,
        ge=1,
        allow_inf_nan=False,
        description="How many times as dear a job's first call may become.",
    )
    watch_false_alarms: float = Field(
        1e-4,
        gt=0,
        le=0.05,
        description="The probability that a release which is no worse raises an alarm. Ten times "
        "as much finds a bad one about a fifth sooner.",
    )
    release_reviews: int = Field(
        10,
        ge=0,
        description="Samples that people must have read before `claude-jobs prompts release` puts "
        "a new version in force. 15 clean ones bound the share of bad outputs below 18 %, 30 below "
        "10 %.",
    )

    @property
    def broker_url(self) -> str:
        """Celery's broker: `CELERY_BROKER_URL`, or else `REDIS_URL`."""
        return self.celery_broker_url or self.redis_url


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read at the first call.

    Raises:
        ConfigurationError: one line that names each variable that is missing or malformed.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError(_one_line(error)) from None


def get_prompts_dir() -> Path:
    """The folder of prompts; known without a database, so that a build can check them."""
    return _Prompts().prompts_dir


class _Prompts(BaseSettings):
    model_config = Settings.model_config

    prompts_dir: Path = Settings.model_fields["prompts_dir"].default


def variable_name(field: str) -> str:
    """The environment variable that sets `field`."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"CLAUDE_JOBS_{field.upper()}"


def _one_line(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        field = str(problem["loc"][0])
        name = variable_name(field) if field in Settings.model_fields else field
        if problem["type"] == "missing":
            problems.append(f"{name} is not set (set it, or start the sandbox with `make up`)")
        else:
            problems.append(f"{name} {problem['msg'][0].lower()}{problem['msg'][1:]}")
    return "; ".join(problems)
