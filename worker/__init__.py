"""The engine: everything that happens between a row in `jobs` and a row in `results`.

`celery -A worker worker` finds the app in `worker.celery`; importing this package builds nothing.
"""
