"""Testing prompts: cases with expectations, run against recorded replies or as ordinary jobs.

Needs the extra `prompts` (pydantic-evals). Workers and producers import nothing of this package.
"""
