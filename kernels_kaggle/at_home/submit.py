"""Submits a checked notebook to the competition: one of the day's few submissions."""

import sys
from collections.abc import Callable

from augment.errors import InputError
from kernels_kaggle.at_home.client import Client, KaggleError
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.at_home.pushed import PushedState
from kernels_kaggle.exchange import read_digest
from pipeline.console import say


def submit(
    folder: PackageFolder, client: Client, message: str, confirm: Callable[[str], bool]
) -> None:
    """Submit the version that was pushed and checked, if ``confirm`` says yes to the question.

    No version is submitted twice, not even where only the reply to the first try was lost.
    """
    state = PushedState.read_latest(folder)
    notebook, version = state.notebook, state.version
    if not state.competition:
        raise InputError(f"{notebook} trains; package its weights under another RUN to submit")
    if not state.is_checked:
        raise InputError(
            f"{notebook}: whether version {version} works is not known; {folder.command('status')}"
        )
    (competition,) = state.competition
    page = f"kaggle.com/competitions/{competition}/submissions"
    if folder.dataset.exists() and read_digest(folder.dataset) != state.package:
        raise InputError(
            f"{folder.dataset}: a newer package than version {version} of {notebook} has; "
            f"{folder.command('push')} comes first"
        )
    if state.was_submitted:
        raise InputError(
            f"{notebook}: version {version} was submitted, see {page}; another package and push "
            "make a version to submit"
        )
    count = client.count_submissions_left(competition)
    if count == 0:
        raise KaggleError(f"{competition}: no submission is left today; the day ends at 0:00 UTC")
    left = "how many are left today is not known" if count is None else f"{count} left today"
    if not confirm(f"{competition}: submit version {version} of {notebook}? ({left})"):
        say("nothing was submitted")
        return
    state.submitted().write(folder)  # first, as this program may be stopped during the call
    try:
        say(client.submit(competition, notebook, version, message or f"{notebook} {version}"))
    except KaggleError as error:
        if not error.may_have_happened:
            state.write(folder)
            raise
        raise KaggleError(f"{error}. It may have arrived all the same: see {page}") from None
    say(f"Kaggle now runs it on the hidden tasks, for up to 12 hours; its score: {page}")


def ask(question: str) -> bool:
    """Return whether the person at the terminal says yes; raise an InputError without a person."""
    if not sys.stdin.isatty():
        raise InputError("nobody is here to confirm; YES=1 submits without asking")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def agree(question: str) -> bool:
    """Show the question and return yes without waiting for a person."""
    say(question)
    return True
