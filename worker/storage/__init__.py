"""Postgres: the tables, the connection to them, and every statement that a job's life consists of.

Functions here take an open SQLAlchemy connection and never commit: the caller says what belongs
together. SQL is written as SQL, because the statements *are* the design; the models exist for
migrations and for reading.
"""
