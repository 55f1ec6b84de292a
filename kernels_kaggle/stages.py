"""From a package to a scored submission: push, look, submit; each a step of its own."""

import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from augment.errors import InputError
from augment.files import read_bytes, read_description, read_object, replace_folder, write_json
from kernels_kaggle.client import Client, KaggleError
from kernels_kaggle.notebook import REPORT, REPORT_FORMAT
from kernels_kaggle.package import (
    DATASET_METADATA,
    NOTEBOOK_METADATA,
    Place,
    manifest_digest,
    read_manifest,
    refuse_strangers,
)
from pipeline.console import say
from pipeline.recipes import load_recipe

_SECONDS_BETWEEN_LOOKS = 20.0
_LOOKS_AT_DATASET = 90  # half an hour
_LINES_OF_LOG = 30
_ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")


def push(place: Place, client: Client) -> None:
    """Upload the package unless Kaggle has it, wait until it is ready, and push the notebook.

    A notebook for pretraining gets its own earlier output as an input, to go on from.
    """
    manifest = _checked_manifest(place)
    digest = manifest_digest(place.dataset)
    pushed = read_object(place.pushed) if place.pushed.exists() else {}
    known: dict[str, Any] = {
        "package": pushed.get("package"),
        "dataset_version": pushed.get("dataset_version"),
        "notebooks": pushed.get("notebooks", []),
    }
    dataset = read_object(place.dataset / DATASET_METADATA)["id"]
    if manifest["stage"] == "predict" and known["package"] == digest and pushed.get("is_checked"):
        raise InputError(
            f"{pushed['notebook']}: version {pushed['version']} holds this package and was seen to "
            f"work; {place.command('submit')}, or {place.command('package')} with other settings"
        )
    state = client.dataset_state(dataset)
    if known["package"] == digest and state == ("ready", known["dataset_version"]):
        say(f"{dataset}: Kaggle has this package already")
    else:
        known["dataset_version"] = _upload(place, dataset, state, client)
        known["package"] = digest
    write_json(place.pushed, known)  # from here on there is nothing to submit
    path = place.notebook / NOTEBOOK_METADATA
    metadata = read_object(path)
    notebook = metadata["id"]
    if manifest["stage"] == "pretrain" and notebook in known["notebooks"]:
        metadata["kernel_sources"] = [notebook]
        write_json(path, metadata)
    version = client.push_notebook(place.notebook, metadata.get("machine_shape", ""))
    known["notebooks"] = sorted({*known["notebooks"], notebook})
    competition = metadata["competition_sources"]
    latest = {"notebook": notebook, "version": version, "competition": competition}
    write_json(place.pushed, {**known, **latest, "is_checked": False})
    say(f"{notebook}: version {version} runs on Kaggle, at {_address(notebook)}")
    say(f"next: {place.command('status')}")


def status(place: Place, client: Client) -> None:
    """Follow the notebook until it has ended, and fetch its log and output.

    What was fetched before stays until all is there and whole.
    """
    pushed = _pushed(place)
    notebook = pushed["notebook"]
    last = ""
    while True:
        found, reason = client.notebook_status(notebook)
        if found != last:
            say(f"{notebook}: {found.lower()}")
            last = found
        if found in _ENDED:
            break
        client.pause(_SECONDS_BETWEEN_LOOKS)
    write_json(place.pushed, {**pushed, "is_checked": False})
    if found != "COMPLETE":
        folder = place.folder / "failed"
        shutil.rmtree(folder, ignore_errors=True)
        client.fetch_output(notebook, folder)
        say("\n".join(_log_of(folder)[-_LINES_OF_LOG:]))
        reason = f" ({reason})" if reason else ""
        raise KaggleError(
            f"{notebook}: ended with {found.lower()}{reason}; its log is in {folder}. Next: mend "
            f"it, {place.command('package')} and {place.command('push')}"
        )
    with replace_folder(place.output) as folder:
        client.fetch_output(notebook, folder)
        report = _report(folder, pushed)
    for name in ("answered_by_model", "answered_by_fallback", "solved_outputs", "outputs"):
        if name in report:
            say(f"{name.replace('_', ' ')}: {report[name]}")
    say(f"{place.output}: the log and all that version {pushed['version']} left")
    write_json(place.pushed, {**pushed, "is_checked": True})
    if pushed["competition"]:
        say(f"next: {place.command('submit')}")
        return
    newest = max(place.output.rglob("step_*[0-9]/checkpoint.json"), default=None)
    if newest is not None:
        other = f'make package RUN=NAME SET="weights={newest.parent}"'
        say(f"next: {other}, or train on: {place.command('push')}")


def submit(place: Place, client: Client, message: str, confirm: Callable[[str], bool]) -> None:
    """Submit the version that was pushed, after asking: it takes one of the day's submissions."""
    pushed = _pushed(place)
    notebook, version = pushed["notebook"], pushed["version"]
    if not pushed["competition"]:
        raise InputError(f"{notebook} trains; package its weights under another RUN to submit")
    if not pushed["is_checked"]:
        raise InputError(
            f"{notebook}: whether version {version} works is not known; {place.command('status')}"
        )
    (competition,) = pushed["competition"]
    list_of_all = f"kaggle.com/competitions/{competition}/submissions"
    if pushed.get("was_submitted"):
        raise InputError(
            f"{notebook}: version {version} was submitted, see {list_of_all}; another package and "
            "push make a version to submit"
        )
    left = client.submissions_left(competition)
    if left == 0:
        raise KaggleError(f"{competition}: no submission is left today; the day ends at 0:00 UTC")
    told = "how many are left today is not known" if left is None else f"{left} left today"
    if not confirm(f"{competition}: submit version {version} of {notebook}? ({told})"):
        say("nothing was submitted")
        return
    write_json(place.pushed, {**pushed, "was_submitted": True})
    try:
        say(client.submit(competition, notebook, version, message or f"{notebook} {version}"))
    except KaggleError as error:
        if not error.is_unclear:
            write_json(place.pushed, pushed)
            raise
        raise KaggleError(f"{error}. It may have arrived all the same: see {list_of_all}") from None
    say(f"Kaggle now runs it on the hidden tasks, for up to 12 hours; its score: {list_of_all}")


def ask(question: str) -> bool:
    """Return whether the person at the terminal says yes; an error where there is none."""
    if not sys.stdin.isatty():
        raise InputError("nobody is here to confirm; YES=1 submits without asking")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def agree(question: str) -> bool:
    """Say what would have been asked, and go on."""
    say(question)
    return True


def _address(notebook: str) -> str:
    return f"kaggle.com/code/{notebook}"


def _checked_manifest(place: Place) -> dict[str, Any]:
    """Return the manifest of a package that is whole, holds no stranger, and fits its notebook."""
    if not place.dataset.exists():
        raise InputError(f"{place.dataset}: no package; {place.command('package')} comes first")
    try:
        manifest = read_manifest(place.dataset)
    except InputError as error:
        raise InputError(f"{error}; {place.command('package')} makes it again") from None
    refuse_strangers(place.dataset, load_recipe(manifest["recipe"], manifest["changes"]))
    code = place.notebook / read_object(place.notebook / NOTEBOOK_METADATA)["code_file"]
    if manifest_digest(place.dataset) not in read_bytes(code).decode():
        raise InputError(f"{code}: made for another package; {place.command('package')} again")
    return manifest


def _upload(place: Place, dataset: str, state: tuple[str, int] | None, client: Client) -> int:
    """Create the data set, or a new version of it; return its number when it can be used."""
    if state is None:
        client.create_dataset(place.dataset)
    else:
        client.add_version(place.dataset, f"manifest {manifest_digest(place.dataset)[:12]}")
    expected = 1 if state is None else state[1] + 1
    last = ""
    for _ in range(_LOOKS_AT_DATASET):
        found, version = client.dataset_state(dataset) or ("not to be seen yet", 0)
        if found != last:
            say(f"{dataset}: {found}")
            last = found
        if found in ("failed", "deleted"):
            raise KaggleError(f"{dataset}: {found} on Kaggle; look at it there, then push again")
        if found == "ready" and version >= expected:
            return version
        client.pause(_SECONDS_BETWEEN_LOOKS)
    raise KaggleError(f"{dataset}: still {last} after half an hour; push again later")


def _pushed(place: Place) -> dict[str, Any]:
    if not place.pushed.exists() or "version" not in (pushed := read_object(place.pushed)):
        raise InputError(f"{place.folder}: nothing was pushed; {place.command('push')} comes first")
    return pushed


def _report(folder: Path, pushed: dict[str, Any]) -> dict[str, Any]:
    """Return what the notebook reports, if it is the one that was pushed and all came whole."""
    path = folder / REPORT
    if not path.exists():
        last = "".join(f": {line}" for line in _log_of(folder)[-1:])
        raise KaggleError(f"{REPORT} is not among the output{last}")
    report = read_description(path, "report", REPORT_FORMAT)
    if report["package"] != pushed["package"]:
        raise KaggleError(
            f"{REPORT}: left by another package. If the run ended just now look again; else "
            "somebody pushed to this notebook: push again"
        )
    return report


def _log_of(folder: Path) -> list[str]:
    """Return the lines of the log: JSON with pieces of text, or text."""
    text = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.log")))
    with contextlib.suppress(KeyError, TypeError, ValueError):
        text = "".join(piece["data"] for piece in orjson.loads(text))
    return text.splitlines()
