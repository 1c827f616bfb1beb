"""The OpenAPI document: made of the tasks, and kept to by the gateway however it is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from api.openapi import components, prefix_of
from sandbox.stack import Stack
from tests.gateway import BODY, TICKET, Gateway
from worker.engine.registry import load_registry

LONG = os.environ.get("CHAOS_LONG") == "1"

#: Not those that take a request which fits the schemas for one that can be met – a prompt version
#: need not exist – nor a cancelled job for one that is gone.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
    "ignored_auth,unsupported_method,missing_required_header"
)
#: The tasks' routes are one piece of code: in the short version one of them is enough.
PATHS = r"^/v1/(jobs(/\{job_id\})?|tasks|tasks/summarize_text/.*)$|^/(healthz|readyz)$"


@pytest.fixture(scope="module")
def document(gateway: Gateway) -> dict[str, Any]:
    with gateway.client() as client:
        made: dict[str, Any] = client.get("/openapi.json").json()
    return made


def valid(document: dict[str, Any], schema: str, value: Any) -> bool:
    root = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    return jsonschema_rs.validator_for(root).is_valid(value)


def test_every_task_has_types_of_its_own(document: dict[str, Any]) -> None:
    for task in load_registry().values():
        prefix = prefix_of(task)
        path = document["paths"][f"/v1/tasks/{task.name}/jobs"]["post"]
        assert path["operationId"] == f"enqueue_{task.name}"
        body = path["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert body.endswith(f"/{prefix}Request")
        answer = path["responses"]["202"]["content"]["application/json"]["schema"]["$ref"]
        assert answer.endswith(f"/{prefix}Job")
        given = document["components"]["schemas"][f"{prefix}Input"]
        assert set(given["properties"]) == task.fields
    operations = [each for path in document["paths"].values() for each in path.values()]
    ids = [each["operationId"] for each in operations]
    assert len(ids) == len(set(ids))


def test_names_are_clean_and_all_are_there(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert not [name for name in schemas if "__" in name]
    text = str(document)
    for name in schemas:
        jsonschema_rs.validator_for(
            {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        )
        assert name in text
    assert schemas == components(load_registry())


def test_it_is_printed_without_settings_and_servers(document: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "worker.cli", "api", "--openapi"]
    ran = subprocess.run(command, env={}, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == document


def test_what_is_sent_and_answered_fits_it(gateway: Gateway, document: dict[str, Any]) -> None:
    assert valid(document, "NamedRequest", BODY)
    assert valid(document, "ClassifyTicketRequest", {"input": TICKET, "priority": 3})
    assert not valid(document, "NamedRequest", BODY | {"task": "summarize_text"})
    assert not valid(document, "ClassifyTicketRequest", {"input": TICKET | {"subject": 1}})
    with gateway.client() as client:
        job = client.post("/v1/jobs", json=BODY).json()
        assert valid(document, "ClassifyTicketJob", job)
        assert valid(document, "JobResource", job)
        assert not valid(document, "SummarizeTextJob", job)
        assert valid(document, "TaskList", client.get("/v1/tasks").json())
        refused = client.post("/v1/jobs", json={}).json()
        assert valid(document, "ProblemDetails", refused)


def test_the_gateway_keeps_to_it_whatever_is_sent(
    stack: Stack, gateway: Gateway, tmp_path: Path
) -> None:
    database = gateway.engine.url.set(drivername="postgresql")
    service = stack.start_api(
        "fuzzed",
        DATABASE_URL=database.render_as_string(hide_password=False),
        CLAUDE_JOBS_API_WAIT_SECONDS="0.05",
        CLAUDE_JOBS_API_RECEIVE_SECONDS="2",
    )
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run"),
        f"{stack.api_url}/openapi.json",
        *("--header", f"Authorization: Bearer {gateway.key()}"),
        *("--checks", CHECKS, "--phases", "coverage,fuzzing"),
        *("--max-examples", "200" if LONG else "4"),
        *("--max-time", "120" if LONG else "5"),
        *("--generation-database", "none"),
        *([] if LONG else ["--include-path-regex", PATHS]),
        # A batch tells of each job, so it answers 200 however wrong they are; streams end late.
        *("--exclude-path-regex", "batch|events"),
    ]
    try:
        ran = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "Traceback" not in service.log_text()
        assert "request failed" not in service.log_text()
    finally:
        service.stop()
