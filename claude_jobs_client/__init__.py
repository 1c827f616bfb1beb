"""The client of a claude-jobs gateway: needs httpx2 and Pydantic, and nothing of the workers.

with JobsClient("https://jobs.example.com", key) as jobs:
    job = jobs.enqueue("classify_ticket", ticket, output=Classification)
    jobs.wait(job, timeout=60).urgency

docs/client.md has more of them.
"""

from claude_jobs_client.asyncclient import AsyncJobsClient
from claude_jobs_client.client import JobsClient
from claude_jobs_client.errors import (
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    JobNotEnded,
    JobsClientError,
    NotFound,
    OutputMismatch,
    RequestRefused,
    TemporaryError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from claude_jobs_client.events import Delta, Error, JobEvent, Partial, Result, Retrying
from claude_jobs_client.models import (
    BatchItem,
    Job,
    JobError,
    NewJob,
    Options,
    Problem,
    Task,
    Usage,
)
from claude_jobs_client.retries import Retries

__all__ = [
    "AsyncJobsClient",
    "BatchItem",
    "Delta",
    "Error",
    "Forbidden",
    "IdempotencyConflict",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobFailed",
    "JobNotEnded",
    "JobsClient",
    "JobsClientError",
    "NewJob",
    "NotFound",
    "Options",
    "OutputMismatch",
    "Partial",
    "Problem",
    "RequestRefused",
    "Result",
    "Retries",
    "Retrying",
    "Task",
    "TemporaryError",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Usage",
]
