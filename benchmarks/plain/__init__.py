"""The peer: a plain Celery task that does what the seed article does, and nothing more."""
