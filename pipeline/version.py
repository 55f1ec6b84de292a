"""Which code this is; read without any other module when the wheel is built."""

import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASE = "0.1.0"


def code_version() -> str:
    """Return the commit of this code, or the version of the installed package."""
    return _commit() or _installed() or RELEASE


def wheel_version() -> str:
    """Return the version of a wheel built from this code: the release, and the commit after it."""
    commit = _commit()
    return f"{RELEASE}+g{commit.replace('-', '.')}" if commit else RELEASE


def _commit() -> str:
    """Return the commit, with ``-dirty`` where files differ from it; empty outside a checkout."""
    if not (ROOT / ".git").exists():  # installed, perhaps below somebody else's repository
        return ""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def _installed() -> str:
    try:
        return metadata.version("arc-trm")
    except metadata.PackageNotFoundError:
        return ""
