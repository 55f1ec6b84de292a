"""Follows the notebook on Kaggle until it has ended, and brings its log and output home."""

import shutil
from contextlib import suppress
from pathlib import Path

import orjson

from augment.files import replace_folder
from kernels_kaggle.at_home.client import Client, KaggleError
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.at_home.pushed import PushedState
from kernels_kaggle.exchange import REPORT, Report
from pipeline.console import say
from pipeline.run import Run
from solver.checkpoint_files import latest_checkpoint

_SECONDS_BETWEEN_LOOKS = 20.0
_LINES_OF_LOG = 30  # shown of a notebook that failed
_ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")


def follow(folder: PackageFolder, client: Client) -> None:
    """Follow the notebook until it has ended, and fetch its log and output.

    Output that was fetched before stays unless the new output is complete and of this package.
    """
    state = PushedState.read_latest(folder)
    notebook = state.notebook
    status, reason = _wait_for_end(notebook, client)
    state.checked(ended_well=False).write(folder)
    if status != "COMPLETE":
        failed = folder.failed_output
        shutil.rmtree(failed, ignore_errors=True)
        client.fetch_output(notebook, failed)
        say("\n".join(_read_log(failed)[-_LINES_OF_LOG:]))
        reason = f" ({reason})" if reason else ""
        raise KaggleError(
            f"{notebook}: ended with {status.lower()}{reason}; its log is in {failed}. Next: mend "
            f"it, {folder.command('package')} and {folder.command('push')}"
        )
    with replace_folder(folder.output) as output:
        client.fetch_output(notebook, output)
        report = _read_report(output, state)
    for name in ("answered_by_model", "answered_by_fallback", "solved_outputs", "outputs"):
        if (count := getattr(report, name)) is not None:
            say(f"{name.replace('_', ' ')}: {count}")
    say(f"{folder.output}: the log and all that version {state.version} left")
    state.checked(ended_well=True).write(folder)
    _say_next_step(folder, state)


def _wait_for_end(notebook: str, client: Client) -> tuple[str, str]:
    """Return the status with which the newest run ended, and why it failed if it did."""
    shown = ""
    while True:
        status, reason = client.get_notebook_status(notebook)
        if status != shown:
            say(f"{notebook}: {status.lower()}")
            shown = status
        if status in _ENDED:
            return status, reason
        client.pause(_SECONDS_BETWEEN_LOOKS)


def _read_report(output: Path, state: PushedState) -> Report:
    """Return the report of the notebook, whose files must be complete and of the package pushed."""
    if not (output / REPORT).exists():
        last_line = "".join(f": {line}" for line in _read_log(output)[-1:])
        raise KaggleError(f"{REPORT} is not among the output{last_line}")
    report = Report.read(output)
    if report.package != state.package:
        raise KaggleError(
            f"{REPORT}: left by another package. If the run ended just now look again; else "
            "somebody pushed to this notebook: push again"
        )
    return report


def _read_log(output: Path) -> list[str]:
    """Return the lines of the log, which is JSON with pieces of text, or plain text."""
    text = "".join(path.read_text(errors="replace") for path in sorted(output.glob("*.log")))
    with suppress(KeyError, TypeError, ValueError):
        text = "".join(piece["data"] for piece in orjson.loads(text))
    return text.splitlines()


def _say_next_step(folder: PackageFolder, state: PushedState) -> None:
    if state.competition:
        say(f"next: {folder.command('submit')}")
        return
    checkpoint = latest_checkpoint(Run(folder.output / "runs" / folder.run.folder.name).checkpoints)
    if checkpoint is not None:
        package = f'make package RUN=NAME SET="weights={checkpoint}"'
        say(f"next: {package}, or train on: {folder.command('push')}")
