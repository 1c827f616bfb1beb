"""Celery's settings, and why each is what it is."""

from __future__ import annotations

from typing import Any

from worker.engine.registry import Registry
from worker.errors import ConfigurationError
from worker.settings import Settings


def celery_config(settings: Settings) -> dict[str, Any]:
    """What `app.conf` is updated with."""
    return {
        "broker_url": settings.broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": _transport_options(settings),
        # The results table is the result. Celery's own backend would be a second truth.
        "result_backend": None,
        "task_ignore_result": True,
        # A message is acknowledged when its attempt ended; one prefetched message a slot.
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        # Threads: a call waits. 500 cost 200 MB; 500 prefork processes cost 70 GB.
        "worker_pool": "threads",
        "worker_concurrency": settings.concurrency,
        # Events are what Flower sees. A sent-event would make a metric series per producer.
        "worker_send_task_events": True,
        "task_send_sent_event": False,
        # Measured: leaves tasks REVOKED that never run again.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_consumer": "worker.transport.request:JobConsumer",
        "task_serializer": "json",
        "accept_content": ["json"],
    }


def check_visibility(settings: Settings, registry: Registry) -> None:
    """Check that Redis does not deliver a message again while its job still runs.

    Raises:
        ConfigurationError: a task's call may take longer than the visibility timeout.
    """
    limit = settings.visibility_seconds
    for task in registry.values():
        if task.call_timeout >= limit:
            raise ConfigurationError(
                f"task {task.name}: call_timeout={task.call_timeout:g} s is not below the "
                f"visibility timeout of {limit:g} s: raise CLAUDE_JOBS_VISIBILITY_SECONDS"
            )


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not settings.broker_url.startswith(("redis", "unix")):
        return {}
    return {
        "visibility_timeout": settings.visibility_seconds,
        "max_connections": settings.concurrency + 20,
        # How often a dead worker's messages are looked for; by default every 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # A publish that fails fails at once: the relay keeps its jobs and its own pace.
        "max_retries": 1,
        "interval_start": 0.1,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    }
