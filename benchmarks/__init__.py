"""What a job costs here, measured beside a plain Celery task on the same servers."""
