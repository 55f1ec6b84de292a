"""What may not be published: credentials, solutions of the scored tasks, and unlisted files."""

import re
import subprocess
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import orjson

from augment.errors import InputError
from augment.files import read_bytes, read_object
from kernels_kaggle.at_home.credentials import CREDENTIAL_FILES, read_secrets
from kernels_kaggle.at_home.metadata import DATASET_METADATA
from kernels_kaggle.exchange import MANIFEST
from pipeline.settings import Settings
from pipeline.sources import load_sources
from pipeline.version import ROOT

# What looks like a secret, whoever it belongs to, by the service that takes it.
_SECRETS = {
    service: re.compile(pattern)
    for service, pattern in {
        "Kaggle": rb'KGAT_\w{16}|"key"\s*:\s*"[0-9a-f]{32}"',
        "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY",
        "GitHub": rb"\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{22}",
        "AWS": rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b"
        rb"|(?i:secret_?access_?key)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}",
        "Weights & Biases": rb"(?i:key|password|token)[\"']?\s*[=:\s]\s*[\"']?[0-9a-f]{40}\b",
        "Hugging Face": rb"\bhf_[A-Za-z0-9]{30}",
        "OpenAI": rb"\bsk-[A-Za-z0-9_-]{32}",
        "Google": rb"\bAIza[0-9A-Za-z_-]{35}",
        "Slack": rb"\bxox[abeprs]-[0-9A-Za-z-]{10}|hooks\.slack\.com/services/T",
    }.items()
}


def refuse_unpublishable(folder: Path, settings: Settings, *, trusts_listed: bool = False) -> None:
    """Raise an InputError when a data set holds files that may not leave this machine.

    The error names each file with the reason: it holds credentials or solutions of the tasks in
    ``data.predicted``, or the manifest does not list it. The files stay where they are. With
    ``trusts_listed`` the files that the manifest lists are not looked into, because the package is
    about to be written again.
    """
    if not folder.exists():
        return
    listed = {MANIFEST, DATASET_METADATA}
    with suppress(InputError, KeyError):  # a damaged manifest lists nothing
        listed.update(read_object(folder / MANIFEST)["files"])
    guard = _Guard(settings)
    refused = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if trusts_listed and name in listed:
            continue
        reason = "folders are not uploaded" if path.is_dir() else guard.find_danger(path)
        if reason is None and name not in listed:
            reason = f"not listed in {MANIFEST}"
        if reason is not None:
            refused.append(f"{name} ({reason})")
    if refused:
        raise InputError(
            f"{folder}: refused: {', '.join(refused)}; take them out, or give to git what belongs "
            "to the program"
        )


def find_secret(content: bytes, of_this_machine: Sequence[str]) -> str | None:
    """Return whose credentials are in ``content``; None where there are none."""
    content = content.replace(b'\\"', b'"')  # of texts in JSON, as in a notebook
    if any(secret.encode() in content for secret in of_this_machine):
        return "credentials: this machine's"
    services = (name for name, pattern in _SECRETS.items() if pattern.search(content))
    return next((f"credentials: {service}" for service in services), None)


class _Guard:
    """Looks into files for what may not be published even where the manifest lists it."""

    def __init__(self, settings: Settings) -> None:
        self._scored_ids = {task.task_id for task in load_sources(settings.data.predicted)}
        self._tracked_files = _list_tracked_files()
        self._secrets = read_secrets()

    def find_danger(self, path: Path) -> str | None:
        """Return why a file may not be published; None where it may."""
        if path.suffix == ".whl":
            return self._find_danger_in_wheel(path)
        content = read_bytes(path)
        if path.name in (*CREDENTIAL_FILES, ".env", ".netrc"):
            return "credentials"
        if secret := find_secret(content, self._secrets):
            return secret
        return self._find_solutions(content) if path.suffix == ".json" else None

    def _find_solutions(self, content: bytes) -> str | None:
        """Return the reason to refuse a JSON file that holds outputs of tasks to be predicted."""
        try:
            raw = orjson.loads(content)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(raw, dict):
            return None
        solved = sorted(key for key in raw.keys() & self._scored_ids if _holds_outputs(raw[key]))
        return f"solutions of {len(solved)} scored tasks, {solved[0]} first" if solved else None

    def _find_danger_in_wheel(self, path: Path) -> str | None:
        """Return the reason to refuse a wheel: a secret, or code of ours that is not in git."""
        if not zipfile.is_zipfile(path):
            return "not a wheel"
        is_ours = path.name.startswith("arc_trm-")
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if secret := find_secret(wheel.read(name), self._secrets):
                    return f"{secret} in {name}"
                if is_ours and ".dist-info/" not in name and name not in self._tracked_files:
                    return f"{name} is not known to git"
        return None


def _holds_outputs(value: object) -> bool:
    """Return whether a JSON file holds outputs of a task's tests in ``value``, beside its id."""
    if isinstance(value, dict):
        tests = value.get("test")
        return isinstance(tests, list) and any("output" in test for test in tests)
    return isinstance(value, list)  # the form of solutions and of submissions


def _list_tracked_files() -> set[str]:
    """Return the files that git knows of; nothing else says which belong to the program."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip()
        raise InputError(f"{ROOT}: packages come from a git checkout only ({reason})")
    return set(done.stdout.split("\0"))
