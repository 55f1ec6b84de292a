"""From a package to a scored submission: push, look, submit; each a step of its own."""

import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from augment.errors import InputError
from augment.files import parse_json, read_bytes, read_description, write_atomic
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
    dataset = _read(place.dataset / DATASET_METADATA)["id"]
    pushed = _read(place.pushed) if place.pushed.exists() else {}
    digest = manifest_digest(place.dataset)
    if pushed.get("package") == digest and client.dataset_state(dataset) is not None:
        say(f"{dataset}: Kaggle has this package already")
    else:
        _upload(place, dataset, digest, client)
        pushed = {"package": digest, "notebook": pushed.get("notebook")}
        _write(place.pushed, pushed)
    path = place.notebook / NOTEBOOK_METADATA
    metadata = _read(path)
    notebook = metadata["id"]
    if manifest["stage"] == "pretrain" and pushed.get("notebook") == notebook:
        metadata["kernel_sources"] = [notebook]
        _write(path, metadata)
    version = client.push_notebook(place.notebook, metadata.get("machine_shape", ""))
    pushed = {"package": digest, "notebook": notebook, "version": version}
    _write(place.pushed, {**pushed, "competition": metadata["competition_sources"]})
    say(f"{notebook}: version {version} runs on Kaggle; follow it with: make status")


def status(place: Place, client: Client) -> None:
    """Follow the notebook until it has ended, and fetch its log and output."""
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
    shutil.rmtree(place.output, ignore_errors=True)
    client.fetch_output(notebook, place.output)
    log = _log_of(place.output)
    if found != "COMPLETE":
        say("\n".join(log[-_LINES_OF_LOG:]))
        raise KaggleError(f"{notebook}: {found.lower()} {reason}; the log is in {place.output}")
    report = _report(place, pushed)
    for name in ("answered_by_model", "answered_by_fallback", "solved_outputs", "outputs"):
        if name in report:
            say(f"{name.replace('_', ' ')}: {report[name]}")
    say(f"{place.output}: the log and all that version {pushed['version']} left")


def submit(place: Place, client: Client, message: str, confirm: Callable[[str], bool]) -> None:
    """Submit the version that was pushed, after asking: it takes one of the day's submissions."""
    pushed = _pushed(place)
    notebook, version = pushed["notebook"], pushed["version"]
    if not pushed["competition"]:
        raise InputError(f"{place.folder}: {notebook} answers no tasks")
    (competition,) = pushed["competition"]
    found, reason = client.notebook_status(notebook)
    if found != "COMPLETE":
        raise KaggleError(f"{notebook}: {found.lower()} {reason}; only what is complete is scored")
    left = client.submissions_left(competition)
    if left < 1:
        raise KaggleError(f"{competition}: no submission is left today; the day ends at 0:00 UTC")
    if not confirm(f"{competition}: submit version {version} of {notebook}? {left} left today"):
        say("nothing was submitted")
        return
    try:
        say(client.submit(competition, notebook, version, message or f"{notebook} {version}"))
    except KaggleError as error:
        raise KaggleError(
            f"{error}. It was tried once; before another try see what arrived: "
            f"kaggle competitions submissions {competition}"
        ) from None


def ask(question: str) -> bool:
    """Return whether the person at the terminal says yes; an error where there is none."""
    if not sys.stdin.isatty():
        raise InputError("nobody is here to confirm; YES=1 submits without asking")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def agree(question: str) -> bool:
    """Say what would have been asked, and go on."""
    say(question)
    return True


def _checked_manifest(place: Place) -> dict[str, Any]:
    """Return the manifest of a package that is whole, holds no stranger, and fits its notebook."""
    if not place.dataset.exists():
        raise InputError(f"{place.dataset}: no package; make package comes first")
    manifest = read_manifest(place.dataset)
    settings = load_recipe(manifest["recipe"], manifest["changes"])
    refuse_strangers(place.dataset, settings)
    code = place.notebook / _read(place.notebook / NOTEBOOK_METADATA)["code_file"]
    if manifest_digest(place.dataset) not in read_bytes(code).decode():
        raise InputError(f"{code}: made for another package; make package again")
    return manifest


def _upload(place: Place, dataset: str, digest: str, client: Client) -> None:
    """Create the data set, or a new version of it, and return when it can be used."""
    state = client.dataset_state(dataset)
    if state is None:
        client.create_dataset(place.dataset)
    else:
        client.add_version(place.dataset, f"manifest {digest[:12]}")
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
            return
        client.pause(_SECONDS_BETWEEN_LOOKS)
    raise KaggleError(f"{dataset}: still {last} after half an hour; push again later")


def _pushed(place: Place) -> dict[str, Any]:
    if not place.pushed.exists() or "version" not in (pushed := _read(place.pushed)):
        raise InputError(f"{place.folder}: nothing was pushed; make push comes first")
    return pushed


def _report(place: Place, pushed: dict[str, Any]) -> dict[str, Any]:
    """Return what the notebook reports, if it is the notebook that was pushed."""
    path = place.output / REPORT
    if not path.exists():
        raise KaggleError(f"{path}: not among the output; the log tells why")
    report = read_description(path, "report", REPORT_FORMAT)
    if report["package"] != pushed["package"]:
        raise KaggleError(f"{path}: left by an earlier package; look again in a minute")
    return report


def _log_of(folder: Path) -> list[str]:
    """Return the lines of the log: JSON with pieces of text, or text."""
    text = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.log")))
    with contextlib.suppress(KeyError, TypeError, ValueError):
        text = "".join(piece["data"] for piece in orjson.loads(text))
    return text.splitlines()


def _read(path: Path) -> dict[str, Any]:
    value = parse_json(read_bytes(path), path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


def _write(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))
