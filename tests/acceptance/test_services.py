"""What production runs: docker-compose.yml, the Dockerfile, and each of our services' commands.

No Docker engine here, so the files are checked for their structure, and each service of ours is
started with its exact command and environment, on the embedded servers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.process import free_port
from sandbox.service import PROJECT, Service
from tests.preloaded import Preloaded
from worker.settings import Settings, variable_name

COMPOSE = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
OURS = ("migrate", "worker", "api", "flower")
BIN = Path(sys.executable).parent
#: The environment's installed package may be another checkout of this project.
CHECKOUT = {"PYTHONPATH": str(PROJECT)}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::[?-][^}]*)?\}")


def strings(value: Any) -> Iterator[str]:
    """Every text in a YAML value."""
    if isinstance(value, str):
        yield value
    for each in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from strings(each)


def test_the_file_has_the_services_of_production() -> None:
    assert set(SERVICES) == {"postgres", "redis", *OURS}
    assert "appendonly yes" in " ".join(strings(SERVICES["redis"]["command"]))
    assert set(COMPOSE["volumes"]) == {"postgres", "redis"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_restarts_and_knows_whether_it_is_healthy(name: str) -> None:
    service = SERVICES[name]

    if name == "migrate":  # runs once
        assert service["restart"] == "no"
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries"} <= service["healthcheck"].keys()


@pytest.mark.parametrize("name", SERVICES)
def test_what_has_a_port_has_it_by_default_for_this_machine_alone(name: str) -> None:
    ports = SERVICES[name].get("ports", [])

    published = {
        "api": ["${API_PORT:-127.0.0.1:8000}:8000"],
        "flower": ["${FLOWER_PORT:-127.0.0.1:5555}:5555"],
    }
    assert ports == published.get(name, [])
    assert "network_mode" not in SERVICES[name]
    assert "privileged" not in SERVICES[name]


def test_the_worker_can_be_scaled() -> None:
    assert not {"container_name", "ports", "hostname"} & SERVICES["worker"].keys()


def test_services_wait_for_the_migration_and_healthy_servers() -> None:
    for name in ("worker", "api", "flower"):
        conditions = {k: v["condition"] for k, v in SERVICES[name]["depends_on"].items()}
        assert conditions == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "redis": "service_healthy",
        }


def test_every_variable_of_the_file_is_explained_in_the_example() -> None:
    used = {name for text in strings(COMPOSE) for name in VARIABLE.findall(text)}
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")

    assert used == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_no_secret_has_a_default() -> None:
    for text in strings(COMPOSE):
        for name in re.findall(r"\$\{(\w+):-", text):
            assert not re.search("PASSWORD|KEY|AUTH", name)
    assert not re.search(
        r"^\w*(PASSWORD|KEY|AUTH)=.+", (PROJECT / ".env.example").read_text(), re.MULTILINE
    )


@pytest.mark.parametrize("name", OURS)
def test_every_variable_that_a_service_gets_is_a_setting(name: str) -> None:
    known = {variable_name(field) for field in Settings.model_fields}

    assert set(SERVICES[name]["environment"]) <= known


def test_a_stopping_worker_has_time_to_end_its_calls() -> None:
    grace = Settings.model_fields["shutdown_grace_seconds"].default
    assert "CLAUDE_JOBS_SHUTDOWN_GRACE_SECONDS" not in SERVICES["worker"]["environment"]

    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > grace


DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")


def test_the_dockerfile_copies_only_what_is_there_and_not_ignored() -> None:
    ignored = (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]

    assert sources
    for source in sources:
        assert (PROJECT / source).exists(), source
        assert source not in ignored


def test_the_image_holds_everything_that_the_wheel_does() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    for package in packages:
        assert f"COPY {package} {package}\n" in DOCKERFILE


def test_the_image_is_slim_built_in_stages_and_not_run_as_root() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)

    assert len(stages) == 2
    assert all(image.endswith("-slim") for image in stages)
    assert re.search(r"^USER (?!root)", DOCKERFILE.split("FROM")[-1], re.MULTILINE)
    assert "--require-hashes" in DOCKERFILE


def test_the_image_s_command_is_the_worker_s() -> None:
    (command,) = re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)
    assert json.loads(command) == SERVICES["worker"]["command"]


# Each service as it is started in production, in a folder that holds what /app holds.


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A folder like the image's /app."""
    shutil.copy(PROJECT / "flowerconfig.py", tmp_path)
    return tmp_path


def variables(name: str, environment: dict[str, str]) -> dict[str, str]:
    """What the compose file gives a service, with the addresses of the embedded servers."""
    addresses = {k: environment[k] for k in ("DATABASE_URL", "REDIS_URL")}
    secrets = {
        "ANTHROPIC_API_KEY": "key",
        "FLOWER_BASIC_AUTH": "admin:pass",
        "CLAUDE_JOBS_WEBHOOK_SECRET": "",  # these may be left out
        "FLOWER_URL": "",
    }
    given = {
        key: VARIABLE.sub(lambda match: secrets.get(match[1], "?"), value)
        for key, value in SERVICES[name]["environment"].items()
    }
    base = {"ANTHROPIC_BASE_URL": environment["ANTHROPIC_BASE_URL"]} if name == "worker" else {}
    own = {"CLAUDE_JOBS_API_HOST": "127.0.0.1", "CLAUDE_JOBS_API_PROCESSES": "1"}
    return given | addresses | base | (own if name == "api" else {})


def program(command: list[str], port: int = 0) -> list[str]:
    """A command of the file, found in this environment and on a free port."""
    found = [str(BIN / command[0]) if (BIN / command[0]).exists() else command[0], *command[1:]]
    return [part.replace("5555", str(port)).replace("8000", str(port)) for part in found]


def run(command: list[str], environment: dict[str, str], folder: Path) -> Any:
    return subprocess.run(
        command,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", **CHECKOUT, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def healthy(name: str, environment: dict[str, str], folder: Path, port: int = 0) -> Any:
    command = SERVICES[name]["healthcheck"]["test"][1:]
    return run(program(command, port), environment, folder)


class Here(Service):
    """A service in a folder of its own instead of the project's."""

    def start_in(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
        monkeypatch.setattr("sandbox.service.PROJECT", folder)
        self.start()
        return self


def test_each_service_comes_up_with_its_exact_command_and_is_healthy(
    environment: dict[str, str], container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate = run(
        program(SERVICES["migrate"]["command"]), variables("migrate", environment), container
    )
    assert migrate.returncode == 0, migrate.stderr

    ready_when = {"worker": " ready.", "flower": "Visit me at", "api": "the gateway serves"}
    for name, ready in ready_when.items():
        port = free_port()
        given = variables(name, environment)
        if name == "api":
            given["CLAUDE_JOBS_API_PORT"] = str(port)
        command = program(SERVICES[name]["command"], port)
        service = Here(command, given | CHECKOUT, container / f"{name}.log")
        with service.start_in(container, monkeypatch):
            service.wait_ready(lambda service=service, ready=ready: ready in service.log_text())
            check = healthy(name, given, container, port)
            assert check.returncode == 0, check.stderr
        assert "Traceback" not in service.log_text()


def test_a_health_check_fails_when_its_service_is_gone(
    environment: dict[str, str], container: Path
) -> None:
    given = variables("worker", environment)
    gone = given | {"DATABASE_URL": "postgresql://u:p@127.0.0.1:9/x"}

    assert healthy("worker", gone, container).returncode != 0
    assert healthy("flower", given, container, free_port()).returncode != 0
    assert healthy("api", given, container, free_port()).returncode != 0


# A service that cannot start says why in one line.


def started(
    service: str, environment: dict[str, str], folder: Path, **changes: str | None
) -> tuple[int, str]:
    """The exit code and the output of a start that fails; above, each service starts cold."""
    merged = variables(service, environment) | changes
    given = {key: value for key, value in merged.items() if value is not None}
    _, *arguments = program(SERVICES[service]["command"], free_port())
    start = Preloaded(["python", "-m", "celery", *arguments], given, folder / f"{service}.log")
    start.folder = folder
    return start.start().end(seconds=120), start.log_text()


def mismatch(folder: Path) -> str:
    """A folder of prompts one of which uses a variable that its task lacks."""
    shutil.copytree(PROJECT / "prompts", folder / "prompts")
    file = folder / "prompts" / "summarize_text" / "1.0.toml"
    file.write_text(file.read_text().replace("{{ audience }}", "{{ readers }}"))
    return str(folder / "prompts")


def mispriced(folder: Path) -> str:
    """A file of negotiated prices that lacks a price."""
    file = folder / "prices.toml"
    file.write_text('[models."claude-sonnet-5-5"]\ninput = "1.80"\noutput = "9"\n')
    return str(file)


def unmigrated(environment: dict[str, str], folder: Path) -> None:
    gone = run([str(BIN / "claude-jobs"), "migrate", "base"], environment, folder)
    assert gone.returncode == 0, gone.stderr


@pytest.mark.parametrize(
    ("service", "changes", "expected"),
    [
        ("worker", {"ANTHROPIC_API_KEY": None}, "ANTHROPIC_API_KEY is not set"),
        ("worker", {"DATABASE_URL": None}, "DATABASE_URL is not set"),
        ("worker", {"DATABASE_URL": "postgresql://u:p@127.0.0.1:9/x"}, "cannot reach Postgres"),
        ("worker", {"CLAUDE_JOBS_PROMPTS_DIR": mismatch}, "the template uses readers, which the"),
        ("worker", {"CLAUDE_JOBS_PRICES_FILE": mispriced}, "5-5.cache_read is missing: a model"),
        ("worker", unmigrated, "has no schema yet"),
        ("flower", {"FLOWER_BASIC_AUTH": None}, "Flower needs a login in production: set FLOWER_B"),
    ],
    ids=["no key", "no database", "database down", "template", "prices", "schema", "no login"],
)
def test_a_service_that_cannot_start_says_why_in_one_line(
    environment: dict[str, str],
    container: Path,
    service: str,
    changes: dict[str, Any] | Callable[[dict[str, str], Path], None],
    expected: str,
) -> None:
    if callable(changes):
        changes(environment, container)
        changes = {}
    changes = {k: v(container) if callable(v) else v for k, v in changes.items()}

    code, said = started(service, environment, container, **changes)

    (line,) = [line for line in said.splitlines() if line.startswith("claude-jobs: ")]
    assert expected in line
    assert code != 0
    assert "Traceback" not in said
