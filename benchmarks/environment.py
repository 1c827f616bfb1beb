"""Where the peers' packages are: an environment of their own, which `make bench` sets up."""

from __future__ import annotations

from sandbox.service import PROJECT

#: Made by `make bench`; never the project's own environment, whose locks it would bend.
PEERS_PYTHON = PROJECT / ".venv-bench" / "bin" / "python"
MISSING = "not installed: `make bench` sets up .venv-bench"


def reason(error: Exception) -> str:
    """Why something could not be measured, without this machine's folders."""
    return str(error).replace(f"{PROJECT}/", "")


def installed() -> bool:
    """Whether the peers can be run."""
    return PEERS_PYTHON.exists()
