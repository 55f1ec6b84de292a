"""The data set that goes to Kaggle: weights, program, what the image lacks, and a manifest.

It is one flat folder, as Kaggle skips folders in folders, and at once a checkpoint, which
``weights=`` can name. Its manifest lists every file with hash and size; what is not listed does not
leave this machine.
"""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from augment.errors import InputError
from augment.files import (
    hash_file,
    read_bytes,
    read_description,
    read_object,
    replace_folder,
    write_description,
    write_json,
)
from augment.task import Task, write_challenges, write_solutions
from kernels_kaggle.client import SECRET_FILES, known_secrets
from pipeline.console import say
from pipeline.prediction import choose_tasks, describe_taught, find_weights
from pipeline.recipes import Settings
from pipeline.runs import Run
from pipeline.sources import load_sources, refuse_leaks
from pipeline.version import ROOT, code_version

Stage = Literal["predict", "pretrain"]
"""What the notebook does; notebooks and packages are named by it."""

MANIFEST = "manifest.json"
DATASET_METADATA = "dataset-metadata.json"  # read by Kaggle's client, and not uploaded
NOTEBOOK_METADATA = "kernel-metadata.json"
_FORMAT = 1
_LONGEST_RUN = 50 - len("arc-trm--pretrain")
_SET_BY_NOTEBOOK = ("weights", "data.trained", "data.predicted")  # here they may be local paths
_WHEELS = Path(__file__).with_name("wheels.txt")
_SECRETS = re.compile(rb'KGAT_\w{16}|"key"\s*:\s*"[0-9a-f]{32}"|-----BEGIN [A-Z ]*PRIVATE KEY')


@dataclass(frozen=True, slots=True)
class Place:
    """The folder ``runs/RUN/kaggle`` and what lies in it."""

    folder: Path

    @classmethod
    def of(cls, run: Run) -> "Place":
        """Return that of a run."""
        return cls(run.folder / "kaggle")

    def command(self, stage: str) -> str:
        """Return what a person types for a stage of this run."""
        return f"make {stage} RUN={self.folder.parent.name}"

    @property
    def dataset(self) -> Path:
        """What is uploaded as a data set."""
        return self.folder / "dataset"

    @property
    def notebook(self) -> Path:
        """What is pushed as a notebook."""
        return self.folder / "notebook"

    @property
    def pushed(self) -> Path:
        """What was uploaded and pushed last."""
        return self.folder / "pushed.json"

    @property
    def output(self) -> Path:
        """What the notebook left."""
        return self.folder / "output"


def package(
    stage: Stage, recipe: str, changes: Sequence[str], settings: Settings, run: Run, owner: str
) -> None:
    """Write the data set and the notebook of a run, ready to be pushed by ``owner``."""
    place, name = Place.of(run), _name_on_kaggle(run)
    dataset, notebook = f"{owner}/{name}", f"{owner}/{name}-{stage}"
    refuse_strangers(place.dataset, settings, trusts_listed=True)
    with replace_folder(place.dataset) as folder:
        if stage == "predict":
            _add_weights(folder, settings, run)
        else:
            _add_tasks(folder, settings)
        _add_wheels(folder)
        files = sorted(folder.iterdir())
        sizes = {path.name: path.stat().st_size for path in files}
        manifest = {
            "format": _FORMAT,
            "stage": stage,
            "run": run.folder.name,
            "recipe": recipe,
            "changes": [c for c in changes if c.partition("=")[0] not in _SET_BY_NOTEBOOK],
            "machine_shape": settings.kaggle.machine_shape,
            "licence": settings.kaggle.licence,
            "code_version": code_version(),
            "files": {path.name: hash_file(path) for path in files},
            "sizes": sizes,
        }
        write_description(folder / MANIFEST, manifest)
        write_json(folder / DATASET_METADATA, _describe_dataset(dataset, settings))
        refuse_strangers(folder, settings)
    digest = manifest_digest(place.dataset)
    with replace_folder(place.notebook) as folder:
        write_json(folder / f"{stage}.ipynb", _fill_in(stage, digest))
        metadata = _describe_notebook(notebook, stage, dataset, settings)
        write_json(folder / NOTEBOOK_METADATA, metadata)
    for name, size in sizes.items():
        say(f"{size / 1e6:8.2f} MB  {name}")
    total = sum(sizes.values()) / 1e6
    say(f"{total:8.2f} MB  {place.dataset}, manifest {digest[:12]}, {settings.kaggle.licence}")
    say(f"next: {place.command('push')}")


def _describe_dataset(name: str, settings: Settings) -> dict[str, Any]:
    return {
        "id": name,
        "title": _title(name),
        "licenses": [{"name": settings.kaggle.licence}],
        "description": "Made by arc-trm; manifest.json lists the files.",
    }


def _describe_notebook(name: str, stage: Stage, dataset: str, settings: Settings) -> dict[str, Any]:
    machine = settings.kaggle.machine_shape
    return {
        "id": name,
        "title": _title(name),
        "code_file": f"{stage}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": bool(machine),
        "enable_tpu": False,
        "enable_internet": False,
        **({"machine_shape": machine} if machine else {}),
        "dataset_sources": [dataset],
        "competition_sources": [settings.kaggle.competition] if stage == "predict" else [],
        "kernel_sources": [],
        "model_sources": [],
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a package whose every file is as it was written."""
    return read_description(folder / MANIFEST, "package", _FORMAT)


def manifest_digest(folder: Path) -> str:
    """Return the digest by which the notebook knows its package."""
    digest: str = read_object(folder / MANIFEST)["digest"]
    return digest


def refuse_strangers(folder: Path, settings: Settings, *, trusts_listed: bool = False) -> None:
    """Raise :class:`InputError` when files lie in a package that may not leave this machine.

    They are named with the reason: credentials, solutions of the tasks that are scored, or not
    listed in the manifest. They stay where they are. With ``trusts_listed`` what the manifest
    lists is not looked at: it is about to be made again.
    """
    if not folder.exists():
        return
    listed = {MANIFEST, DATASET_METADATA}
    with suppress(InputError, KeyError):
        listed.update(read_object(folder / MANIFEST)["files"])
    guard = _Guard(settings)
    refused = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if trusts_listed and name in listed:
            continue
        reason = "folders are not uploaded" if path.is_dir() else guard.danger_of(path)
        if reason is None and name not in listed:
            reason = f"not listed in {MANIFEST}"
        if reason is not None:
            refused.append(f"{name} ({reason})")
    if refused:
        raise InputError(
            f"{folder}: refused: {', '.join(refused)}; take them out, or give to git what belongs "
            "to the program"
        )


class _Guard:
    """Knows what may not be published, whoever lists it."""

    def __init__(self, settings: Settings) -> None:
        self._secrets = [secret.encode() for secret in known_secrets()]
        self._scored = {task.task_id for task in load_sources(settings.data.predicted)}
        self._tracked = _tracked_files()

    def danger_of(self, path: Path) -> str | None:
        """Return what is wrong with a file; None where nothing is."""
        if path.suffix == ".whl":
            return self._danger_in_wheel(path)
        content = read_bytes(path)
        if path.name in (*SECRET_FILES, ".env", ".netrc") or self._holds_secret(content):
            return "credentials"
        return self._solves(content) if path.suffix == ".json" else None

    def _holds_secret(self, content: bytes) -> bool:
        return bool(_SECRETS.search(content)) or any(s in content for s in self._secrets)

    def _solves(self, content: bytes) -> str | None:
        """Return a line when JSON holds answers of tasks that are to be predicted."""
        try:
            raw = orjson.loads(content)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(raw, dict):
            return None
        found = sorted(key for key in raw.keys() & self._scored if _is_answered(raw[key]))
        return f"solutions of {len(found)} scored tasks, {found[0]} first" if found else None

    def _danger_in_wheel(self, path: Path) -> str | None:
        is_ours = path.name.startswith("arc_trm-")
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if self._holds_secret(wheel.read(name)):
                    return f"credentials in {name}"
                is_code = is_ours and ".dist-info/" not in name
                if is_code and self._tracked is not None and name not in self._tracked:
                    return f"{name} is not known to git"
        return None


def _is_answered(value: object) -> bool:
    """Return whether the value of a task id in a JSON file holds answers to its tests."""
    if isinstance(value, dict):
        tests = value.get("test")
        return isinstance(tests, list) and any("output" in test for test in tests)
    return isinstance(value, list)  # a submission or solutions


def _tracked_files() -> set[str] | None:
    """Return the files that git knows of; None where this is no checkout."""
    if not (ROOT / ".git").exists():
        return None
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        raise InputError(f"{ROOT}: git does not list its files ({listed.stderr.strip()})")
    return set(listed.stdout.splitlines())


def _add_weights(folder: Path, settings: Settings, run: Run) -> None:
    """Add what the notebook starts from; nothing where it starts from scratch."""
    from solver.checkpoint import load_weights, write_weights
    from solver.world import World

    if settings.adapt.start == "scratch":
        if settings.weights:
            raise InputError("adapt.start=scratch starts a new model: leave out weights=")
        say("no weights: adapt.start=scratch")
        return
    source = find_weights(settings, run, World())
    taught = describe_taught(choose_tasks(settings), load_weights(source))
    if taught and settings.predict.refuse_taught:
        raise InputError(f"{taught} (predict.refuse_taught=false packs them all the same)")
    write_weights(source, folder, settings.kaggle.rows)


def _add_tasks(folder: Path, settings: Settings) -> None:
    """Add the tasks of the recipe; of those that are predicted what a solver may see."""
    trained = load_sources(settings.data.trained)
    predicted = load_sources(settings.data.predicted)
    left_out = settings.data.left_out
    refuse_leaks([task for task in trained if task.task_id not in left_out], predicted)
    for name, tasks in (("training", trained), ("evaluation", predicted)):
        if tasks:
            write_challenges(folder / f"arc-agi_{name}_challenges.json", tasks)
    if trained:
        _require_answers(trained)
        write_solutions(folder / "arc-agi_training_solutions.json", trained)


def _require_answers(tasks: Iterable[Task]) -> None:
    for task in tasks:
        if task.answers is None:
            raise InputError(f"data.trained: the answers of task {task.task_id!r} are not known")


def _add_wheels(folder: Path) -> None:
    """Add the program, and what the image lacks; the latter is downloaded once."""
    folder = folder.resolve()
    if not (ROOT / "pyproject.toml").exists():
        raise InputError(f"{ROOT}: a package is made from a checkout, not from what is installed")
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    import pooch

    store = Path(pooch.os_cache("arc-trm")) / "wheels"
    store.mkdir(parents=True, exist_ok=True)
    asked = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    asked += ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(_WHEELS)]
    kept = [*asked, "--no-index", "--find-links", str(store), "-d", str(folder)]
    try:
        _run(kept, ROOT)
    except InputError:
        _run([*asked, "-d", str(store)], ROOT)
        _run(kept, ROOT)


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise InputError(f"{' '.join(command[2:4])}: {lines[-1]}")


def _fill_in(stage: Stage, digest: str) -> dict[str, Any]:
    """Return the notebook, which accepts the package with this digest and no other."""
    path = Path(__file__).with_name(f"{stage}.ipynb")
    notebook = read_object(path)
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).replace('PACKAGE = ""', f'PACKAGE = "{digest}"')
    assert digest in str(notebook), path
    return notebook


def _name_on_kaggle(run: Run) -> str:
    """Return the name of a run's data set, which is that of no other run's."""
    name = run.folder.name
    if not re.fullmatch(f"[a-z0-9-]{{1,{_LONGEST_RUN}}}", name) or name != name.strip("-"):
        raise InputError(
            f"run {name!r}: Kaggle needs up to {_LONGEST_RUN} small letters a-z, digits and '-'"
        )
    return f"arc-trm-{name}"


def _title(name: str) -> str:
    """Return the title of which Kaggle makes the slug in ``name``."""
    return name.partition("/")[2].replace("-", " ")
