"""Alembic migrations; `claude-jobs migrate` runs them."""
