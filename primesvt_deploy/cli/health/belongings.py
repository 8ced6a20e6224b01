"""Reference models and data, and what a connection over SSH uses."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from primesvt_deploy.cli.health.finding import MISSING, OK, Finding, apt
from primesvt_deploy.errors import DeployError
from primesvt_deploy.model.reference_models import model_names, models_root

__all__ = ["check_models", "check_ssh"]

_MODELS = "Reference models and data"
_SSH = "Connections over SSH: bench --host"


def check_models() -> Iterator[Finding]:
    """The models and data that come along."""
    needed_for = "build, frontier and analyze without --checkpoint"
    try:
        names, root = model_names(), models_root()
    except DeployError as error:
        yield Finding(_MODELS, "models", MISSING, str(error), needed_for, "pass --checkpoint")
        return
    data = sorted(path.stem for path in (root / "data").glob("*.npz"))
    for what, found in (("models", names), ("data", data)):
        if found:
            yield Finding(_MODELS, what, OK, f"{', '.join(found)} in {root}", needed_for)
        else:
            mend = "pip install --force-reinstall ./models"
            yield Finding(_MODELS, what, MISSING, f"none in {root}", needed_for, mend)


def check_ssh() -> Iterator[Finding]:
    """Keys, agent and configuration by which a board is signed in to."""
    home = Path.home() / ".ssh"
    keys = sorted(path.stem for path in home.glob("id_*.pub"))
    yield _entry("keys", ", ".join(keys), "signing in without a password", "ssh-keygen -t ed25519")
    yield _entry("agent", _agent(), "keys with a passphrase", 'eval "$(ssh-agent)" && ssh-add')
    config = home / "config"
    found = str(config) if config.is_file() else f"no {config}: hosts are called user@address"
    yield Finding(_SSH, "ssh_config", OK, found)
    client = shutil.which("ssh") or ""
    yield _entry("ssh client", client, "ssh-copy-id to a board", apt("openssh-client"))


def _entry(name: str, found: str, needed_for: str, mend: str) -> Finding:
    if found:
        return Finding(_SSH, name, OK, found, needed_for)
    return Finding(_SSH, name, MISSING, "", needed_for, mend)


def _agent() -> str:
    """The socket of a running agent; empty where there is none."""
    path = os.environ.get("SSH_AUTH_SOCK", "")
    try:
        return path if stat.S_ISSOCK(os.stat(path).st_mode) else ""
    except OSError:
        return ""
