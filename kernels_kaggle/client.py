"""Kaggle's own client as a command, with its errors as errors.

The client ends with status 0 where the server said no, and goes on without files it could not
upload; so every command here is judged by what it printed.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.errors import InputError
from pipeline.console import say

_SECRET_VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN_PATH")
SECRET_FILES = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
_SHORTEST_SECRET = 8
# With these set the client prints its Authorization header.
_TALKATIVE = ("VERBOSE", "VERBOSE_OUTPUT")
# The client shows the server's words where there are any, and only else the number of the status.
_BUSY = re.compile(
    r"\b(429|503) (Client|Server) Error|too many requests|rate limit|unavailable|try again later",
    re.IGNORECASE,
)
_BUSY_OR_LOST = re.compile(
    f"{_BUSY.pattern}|5\\d\\d Server Error|internal (server )?error|gateway|timed out|"
    "max retries exceeded|connection (aborted|broken)",
    re.IGNORECASE,
)
_NO_CREDENTIALS = "Authentication required"
_DELAYS = (5.0, 15.0, 45.0, 120.0)  # seconds before another try
_LOG_IN = "get a token on kaggle.com under Settings, API, and save it as ~/.kaggle/access_token"
_NEXT_STEPS = {
    "session count": "wait until a notebook has ended, or stop one on kaggle.com, and push again",
    "valid dataset sources": "see that the data set is there and ready, then push again",
    "valid competition sources": "accept its rules on kaggle.com, or correct kaggle.competition",
    "valid kernel sources": "see that the notebook to go on from is there, then push again",
    _NO_CREDENTIALS: _LOG_IN,
    "already in use": "it is somebody else's, or Kaggle did not say that it is yours; try again",
    "Upload unsuccessful": "push again: what was uploaded is not sent twice",
    "accept the": "accept the competition's rules on kaggle.com",
    "denied": "see whose token this is, kaggle.owner, and that the rules are accepted",
}


_TELLING = re.compile(f"error: |are not valid|unsuccessful|{_NO_CREDENTIALS}")


class KaggleError(InputError):
    """Kaggle said no; the message is the client's, with the next step to take."""

    is_unclear = False
    """Whether what was asked for may have happened all the same."""


@dataclass(frozen=True, slots=True)
class Client:
    """The command ``kaggle`` of this environment."""

    pause: Callable[[float], object] = time.sleep
    """Waits so many seconds, between tries and between looks at what is under way."""

    def username(self) -> str:
        """Return whose credentials the client finds."""
        found = re.search(r"^- username: (\S+)$", self._run("config", "view"), re.MULTILINE)
        if found is None or found[1] == "None":
            raise KaggleError(f"no Kaggle user name: {_LOG_IN}, or set kaggle.owner=NAME")
        return found[1]

    def dataset_state(self, dataset: str) -> tuple[str, int] | None:
        """Return status and version number of a data set; None where Kaggle shows none.

        Kaggle has several words for that, so whatever else it says means that, too.
        """
        try:
            text = self._run("datasets", "status", "--format", "json", dataset)
        except KaggleError as error:
            if _BUSY_OR_LOST.search(str(error)) or _NO_CREDENTIALS in str(error):
                raise
            return None
        found = json.loads(text)
        return found["status"], found["current_version_number"]

    def create_dataset(self, folder: Path) -> None:
        """Upload a folder as a new, private data set."""
        text = self._run("datasets", "create", "-p", str(folder), "-r", "skip")
        self._check_upload(text, folder, "Dataset is being created")

    def add_version(self, folder: Path, notes: str) -> None:
        """Upload a folder as a new version of its data set."""
        text = self._run("datasets", "version", "-p", str(folder), "-m", notes, "-r", "skip")
        self._check_upload(text, folder, "Dataset version is being created")

    def push_notebook(self, folder: Path, accelerator: str) -> int:
        """Push a notebook, which Kaggle then runs; return the number of its version."""
        machine = ["--accelerator", accelerator] if accelerator else []
        # Where the answer was lost the notebook may be running: a second one would cost GPU hours.
        text = self._run("kernels", "push", "-p", str(folder), *machine, again=_BUSY)
        found = re.search(r"Kernel version (\d+) successfully pushed", text)
        if found is None:
            raise _error("kernels push", text)
        if "are not valid" in text:
            lacking = f"; version {found[1]} was saved without it, and may have to be stopped there"
            raise KaggleError(f"{_error('kernels push', text)}{lacking}")
        return int(found[1])

    def notebook_status(self, notebook: str) -> tuple[str, str]:
        """Return the status of the newest run, such as RUNNING, and why it failed if it did."""
        text = self._run("kernels", "status", notebook)
        found = re.search(r'has status "(?:\w+\.)?(\w+)"', text)
        if found is None:
            raise _error("kernels status", text)
        reason = re.search(r'Failure message: "(.*)"', text)
        return found[1].upper(), reason[1] if reason else ""

    def fetch_output(self, notebook: str, folder: Path) -> None:
        """Fetch the log and all that the newest run left."""
        self._run("kernels", "output", notebook, "-p", str(folder), "--force")

    def submissions_left(self, competition: str) -> int | None:
        """Return how many submissions are left today; None before the first one of all."""
        text = self._run("competitions", "submission-limits", "--json", competition)
        limits: dict[str, int] = json.loads(text)  # without the zeros
        # Who is on no team yet is told zeros only, and gets a team by submitting.
        return limits.get("numAllowedNow", 0) if limits else None

    def submit(self, competition: str, notebook: str, version: int, message: str) -> str:
        """Submit a version of a notebook, once; return what Kaggle says."""
        text = self._run(
            "competitions", "submit", competition, "-f", "submission.json", "-k", notebook,
            "-v", str(version), "-m", message, again=None,
        )  # fmt: skip
        if "Successfully submitted" not in text:
            error = _error("competitions submit", text)
            error.is_unclear = True
            raise error
        return text

    def _check_upload(self, text: str, folder: Path, expected: str) -> None:
        lost = re.findall(r"^Upload unsuccessful: (.*)$", text, re.MULTILINE)
        if lost or expected not in text:
            raise _error(f"upload of {folder}", text)

    def _run(self, *arguments: str, again: re.Pattern[str] | None = _BUSY_OR_LOST) -> str:
        """Return what the client printed; called again where its error is one of ``again``."""
        command = " ".join(arguments[:2])
        for delay in (*_DELAYS, None):
            done = _call(arguments)
            if not done.returncode:
                return done.stdout.strip()  # bars and retries are on the other
            text = f"{done.stdout}\n{done.stderr}".strip()
            if delay is None or again is None or not again.search(text):
                break
            say(f"kaggle {command}: {text.splitlines()[-1]}; again in {delay:.0f} s")
            self.pause(delay)
        error = _error(command, text)
        error.is_unclear = bool(_BUSY_OR_LOST.search(text))
        raise error


def _call(arguments: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in _TALKATIVE}
    done = subprocess.run(
        [sys.executable, "-m", "kaggle", "-W", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
    )
    secrets = known_secrets()
    for name in ("stdout", "stderr"):
        text = getattr(done, name)
        for secret in secrets:
            text = text.replace(secret, "***")
        setattr(done, name, text)
    return done


def known_secrets() -> list[str]:
    """Return the secrets that the client would find here: they belong in no log and no package."""
    found = [os.environ.get(name, "") for name in _SECRET_VARIABLES]
    home = Path.home()
    folders = [home / ".kaggle", home / ".config" / "kaggle"]
    folders += [Path(os.environ.get("KAGGLE_CONFIG_DIR", home))]
    folders += [Path(os.environ.get("XDG_CONFIG_HOME", home)) / "kaggle"]
    paths = [folder / name for folder in folders for name in SECRET_FILES]
    # A variable may name a file.
    for path in [*paths, *(Path(value) for value in found if value)]:
        try:
            text = path.read_text().strip()
        except (OSError, ValueError):
            continue
        found += _values(text)
    return sorted({secret for secret in found if len(secret) >= _SHORTEST_SECRET}, key=len)[::-1]


def _values(text: str) -> list[str]:
    """Return the secrets in a file of credentials: JSON, or nothing but the token."""
    try:
        content: Mapping[str, Any] = json.loads(text)
    except ValueError:
        return [text]
    if not isinstance(content, dict):
        return [text]
    return [str(value) for name, value in content.items() if "key" in name or "token" in name]


def _error(command: str, text: str) -> KaggleError:
    """Return the error of a command that printed ``text``, with the next step where it is known."""
    lines = [line for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)]
    said = dict.fromkeys(line.rstrip(".") for line in telling or lines[-1:])
    reason = "; ".join(said) or "the client printed nothing"
    steps = [step for sign, step in _NEXT_STEPS.items() if sign in reason]
    return KaggleError(f"kaggle {command}: {reason}" + "".join(f". Next: {s}" for s in steps[:1]))
