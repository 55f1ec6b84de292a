"""Kaggle's own client, called as a command, of which every failure becomes a :class:`KaggleError`.

The client ends with status 0 even where the server refused, and goes on without the files that it
could not upload. So every command here is judged by what it printed.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from augment.errors import InputError
from augment.files import parse_json
from kernels_kaggle.at_home.credentials import read_secrets
from pipeline.console import say

# With one of these variables set the client prints its Authorization header.
_VERBOSE_VARIABLES = ("VERBOSE", "VERBOSE_OUTPUT")
# The server is busy and did nothing. The client prints the server's words where there are any, and
# the number of the status only where there are none.
_BUSY = re.compile(
    r"\b(429|503) (Client|Server) Error|too many requests|rate limit|unavailable|try again later",
    re.IGNORECASE,
)
# The server is busy, or its reply was lost and nobody knows what it did.
_BUSY_OR_LOST = re.compile(
    f"{_BUSY.pattern}|5\\d\\d Server Error|internal (server )?error|gateway|timed out|"
    "max retries exceeded|connection (aborted|broken)",
    re.IGNORECASE,
)
_NO_CREDENTIALS = "Authentication required"
_DELAYS = (5.0, 15.0, 45.0, 120.0)  # seconds before the second, third, ... try
_LOG_IN = "get a token on kaggle.com under Settings, API, and save it as ~/.kaggle/access_token"
# What a person does next, by words of the error.
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
# What marks a line of the client's output that gives a reason; else its last line is taken.
_REASON = re.compile(f"error: |are not valid|unsuccessful|{_NO_CREDENTIALS}")


class KaggleError(InputError):
    """Kaggle refused or failed; the message is the client's, with the next step to take."""

    may_have_happened = False
    """Whether Kaggle may have done what it was called for, although no reply says so."""


class DatasetState(NamedTuple):
    """What Kaggle says of a data set."""

    status: str
    version: int


@dataclass(frozen=True, slots=True)
class Client:
    """The command ``kaggle`` of this environment."""

    pause: Callable[[float], object] = time.sleep
    """Waits so many seconds, between tries and between looks at what is under way."""

    def find_username(self) -> str:
        """Return the name of the user whose credentials the client finds."""
        match = re.search(r"^- username: (\S+)$", self._run("config", "view"), re.MULTILINE)
        if match is None or match[1] == "None":
            raise KaggleError(f"no Kaggle user name: {_LOG_IN}, or set kaggle.owner=NAME")
        return match[1]

    def get_dataset_state(self, dataset: str) -> DatasetState | None:
        """Return status and version of a data set; None where Kaggle shows none of this name.

        Kaggle refuses in several ways to show a data set that does not exist. So every refusal
        means that there is none, except those of a busy server and for lack of credentials.
        """
        try:
            text = self._run("datasets", "status", "--format", "json", dataset)
        except KaggleError as error:
            if _BUSY_OR_LOST.search(str(error)) or _NO_CREDENTIALS in str(error):
                raise
            return None
        try:
            state: Any = parse_json(text.encode(), "status")
            return DatasetState(str(state["status"]), int(state["current_version_number"]))
        except (KeyError, TypeError, ValueError):
            raise _make_error("datasets status", text) from None

    def create_dataset(self, folder: Path) -> None:
        """Upload a folder as a new, private data set."""
        text = self._run("datasets", "create", "-p", str(folder), "-r", "skip")
        _check_upload(text, folder, "Dataset is being created")

    def add_version(self, folder: Path, notes: str) -> None:
        """Upload a folder as a new version of its data set."""
        text = self._run("datasets", "version", "-p", str(folder), "-m", notes, "-r", "skip")
        _check_upload(text, folder, "Dataset version is being created")

    def push_notebook(self, folder: Path, accelerator: str) -> int:
        """Push a notebook, which Kaggle then runs; return the number of its version."""
        machine = ["--accelerator", accelerator] if accelerator else []
        # Where only the reply was lost the notebook runs already: another one costs GPU hours.
        text = self._run("kernels", "push", "-p", str(folder), *machine, retry_on=_BUSY)
        match = re.search(r"Kernel version (\d+) successfully pushed", text)
        if match is None:
            raise _make_error("kernels push", text)
        if "are not valid" in text:
            raise KaggleError(
                f"{_make_error('kernels push', text)}; version {match[1]} was saved without it, "
                "and may have to be stopped there"
            )
        return int(match[1])

    def get_notebook_status(self, notebook: str) -> tuple[str, str]:
        """Return the status of the newest run, such as RUNNING, and why it failed if it did."""
        text = self._run("kernels", "status", notebook)
        status = re.search(r'has status "(?:\w+\.)?(\w+)"', text)
        if status is None:
            raise _make_error("kernels status", text)
        reason = re.search(r'Failure message: "(.*)"', text)
        return status[1].upper(), reason[1] if reason else ""

    def fetch_output(self, notebook: str, folder: Path) -> None:
        """Fetch the log and every file that the newest run of a notebook left."""
        self._run("kernels", "output", notebook, "-p", str(folder), "--force")

    def count_submissions_left(self, competition: str) -> int | None:
        """Return how many submissions are left today; None where Kaggle does not know.

        It does not for somebody on no team yet, whose first submission makes them one.
        """
        text = self._run("competitions", "submission-limits", "--json", competition)
        try:
            limits: Any = parse_json(text.encode(), "limits")  # counts of 0 are left out
            return int(limits.get("numAllowedNow", 0)) if limits else None
        except (AttributeError, TypeError, ValueError):
            raise _make_error("competitions submission-limits", text) from None

    def submit(self, competition: str, notebook: str, version: int, message: str) -> str:
        """Submit a version of a notebook, in one try only; return what Kaggle says."""
        text = self._run(
            "competitions", "submit", competition, "-f", "submission.json", "-k", notebook,
            "-v", str(version), f"--message={message}", retry_on=None,
        )  # fmt: skip
        if "Successfully submitted" not in text:
            error = _make_error("competitions submit", text)
            error.may_have_happened = True
            raise error
        return text

    def _run(self, *arguments: str, retry_on: re.Pattern[str] | None = _BUSY_OR_LOST) -> str:
        """Return what the client printed; call it again where its error matches ``retry_on``."""
        command = " ".join(arguments[:2])
        for delay in (*_DELAYS, None):
            done = _call(arguments)
            if not done.returncode:
                return done.stdout.strip()  # progress bars and retries are on stderr
            text = f"{done.stdout}\n{done.stderr}".strip()
            if delay is None or retry_on is None or not retry_on.search(text):
                break
            say(f"kaggle {command}: {text.splitlines()[-1]}; again in {delay:.0f} s")
            self.pause(delay)
        error = _make_error(command, text)
        error.may_have_happened = bool(_BUSY_OR_LOST.search(text))
        raise error


def _call(arguments: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    """Return the ended client with its output, in which every secret is replaced by ``***``."""
    hidden = _VERBOSE_VARIABLES
    done = subprocess.run(
        [sys.executable, "-m", "kaggle", "-W", *arguments],
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        errors="replace",
    )
    for secret in read_secrets():
        done.stdout = done.stdout.replace(secret, "***")
        done.stderr = done.stderr.replace(secret, "***")
    return done


def _check_upload(text: str, folder: Path, expected: str) -> None:
    """Raise the error of an upload whose output lacks ``expected`` or names a file that failed."""
    if expected not in text or re.search("^Upload unsuccessful: ", text, re.MULTILINE):
        raise _make_error(f"upload of {folder}", text)


def _make_error(command: str, text: str) -> KaggleError:
    """Return the error of a command that printed ``text``, with the next step to take."""
    lines = [line for line in text.splitlines() if line.strip()]
    reasons = [line for line in lines if _REASON.search(line)] or lines[-1:]
    reason = "; ".join(dict.fromkeys(line.rstrip(".") for line in reasons))
    reason = reason or "the client printed nothing"
    steps = [step for words, step in _NEXT_STEPS.items() if words in reason]
    return KaggleError(f"kaggle {command}: {reason}" + "".join(f". Next: {s}" for s in steps[:1]))
