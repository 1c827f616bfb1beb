# One image for every service; docker-compose.yml names the command.
FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
    && /venv/bin/pip install --no-cache-dir --prefix /hatch hatchling
COPY worker worker
COPY tasks tasks
COPY api api
COPY claude_jobs_client claude_jobs_client
COPY prompts prompts
COPY migrations migrations
COPY sandbox sandbox
RUN PYTHONPATH=$(echo /hatch/lib/python3*/site-packages) \
    /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /app claude-jobs
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=build /venv /venv
COPY flowerconfig.py ./
USER claude-jobs
CMD ["celery", "-A", "worker", "worker", "--without-gossip", "--without-mingle"]
