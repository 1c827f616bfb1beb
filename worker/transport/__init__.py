"""Celery's side: messages that carry an id, tasks that run an attempt, a worker that relays."""
