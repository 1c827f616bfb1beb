"""Flower's options; `celery -A worker flower` executes this file from the working directory.

The command line overrides what is set here, and this overrides `FLOWER_*` variables.
"""

import sys

from worker.settings import get_settings

if get_settings().environment == "production" and not (
    get_settings().flower_basic_auth or get_settings().flower_auth
):
    sys.exit(
        "claude-jobs: Flower needs a login in production: set FLOWER_BASIC_AUTH=user:password "
        "(or FLOWER_AUTH and FLOWER_AUTH_PROVIDER for OAuth)"
    )

# Behind a proxy or a tunnel; a container passes --address=0.0.0.0.
address = "127.0.0.1"

# Looking only: cancelling and requeueing go through Postgres, where the jobs are.
read_only = True

# 12–14 kB a task: about 140 MB. The history is in Postgres; Flower shows the present.
max_tasks = 10_000
max_workers = 500
purge_offline_workers = 600

# The uuid is the job's id; kwargs hold its prompt version and the user, never an input.
tasks_columns = "name,uuid,state,kwargs,retries,received,started,runtime,worker,exception"
natural_time = True
