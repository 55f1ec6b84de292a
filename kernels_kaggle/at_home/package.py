"""Writes a package: the data set with weights or tasks and program, and the notebook that runs it.

The data set is one flat folder, as Kaggle skips folders in folders. It holds the files of a
checkpoint, so that ``weights=`` can name it, and a manifest with hash and size of every file.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from augment.errors import InputError
from augment.files import hash_file, read_object, replace_folder, write_json
from augment.leakage import refuse_leaks
from augment.task_files import write_challenges, write_solutions
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.at_home.guard import refuse_unpublishable
from kernels_kaggle.at_home.metadata import NotebookMetadata, write_dataset_metadata
from kernels_kaggle.exchange import Manifest, Stage, read_digest
from pipeline.console import say
from pipeline.inputs import choose_predicted_tasks, describe_leak, find_weights
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.sources import downloads_folder, load_sources
from pipeline.version import ROOT, code_version

_LONGEST_RUN = 50 - len("arc-trm--pretrain")  # characters; Kaggle takes titles of up to 50
# These may name paths of this machine, or need what such a one names: the notebook sets its own.
_STAYS_HOME = (
    "weights", "shipped_weights", "data.trained", "data.predicted", "data.fresh", "data.evaluated",
    "train.start_from", "train.eval_every", "checkpoint.keep_best",
)  # fmt: skip
_NOTEBOOKS = Path(__file__).parents[1] / "on_kaggle"
_WHEELS = Path(__file__).with_name("wheels.txt")


def package(
    stage: Stage, recipe: str, changes: Sequence[str], settings: Settings, run: Run, owner: str
) -> None:
    """Write the data set and the notebook of a run, ready to be pushed by ``owner``.

    ``settings`` are those of ``recipe`` with ``changes``.
    """
    if not (ROOT / ".git").exists():
        raise InputError(f"{ROOT}: packages come from a git checkout only, whose files are known")
    parts, name = PackageFolder(run), _name_on_kaggle(run)
    dataset, notebook = f"{owner}/{name}", f"{owner}/{name}-{stage}"
    refuse_unpublishable(parts.dataset, settings, trusts_listed=True)
    with replace_folder(parts.dataset) as folder:
        if stage == "predict":
            _add_weights(folder, settings, run)
        else:
            _add_tasks(folder, settings)
        _add_wheels(folder)
        files = sorted(folder.iterdir())
        manifest = Manifest(
            stage=stage,
            run=run.folder.name,
            recipe=recipe,
            changes=tuple(c for c in changes if c.partition("=")[0] not in _STAYS_HOME),
            machine_shape=settings.kaggle.machine_shape,
            licence=settings.kaggle.licence,
            code_version=code_version(),
            files={path.name: hash_file(path) for path in files},
            sizes={path.name: path.stat().st_size for path in files},
        )
        manifest.write(folder)
        write_dataset_metadata(folder, dataset, settings.kaggle)
        refuse_unpublishable(folder, settings)
    digest = read_digest(parts.dataset)
    with replace_folder(parts.notebook) as folder:
        _write_notebook(folder, stage, digest)
        NotebookMetadata.of(notebook, stage, dataset, settings.kaggle).write(folder)
    for name, size in manifest.sizes.items():
        say(f"{size / 1e6:8.2f} MB  {name}")
    total = sum(manifest.sizes.values()) / 1e6
    say(f"{total:8.2f} MB  {parts.dataset}, manifest {digest[:12]}, {manifest.licence}")
    say(f"next: {parts.command('push')}")


def _name_on_kaggle(run: Run) -> str:
    """Return the name of a run's data set; no other run's has the same."""
    name = run.folder.name
    if not re.fullmatch(f"[a-z0-9-]{{1,{_LONGEST_RUN}}}", name) or name != name.strip("-"):
        raise InputError(
            f"run {name!r}: Kaggle needs up to {_LONGEST_RUN} small letters a-z, digits and '-'"
        )
    return f"arc-trm-{name}"


def _add_weights(folder: Path, settings: Settings, run: Run) -> None:
    """Add the weights that the notebook starts from; none where it starts from scratch."""
    from solver.weights import copy_weights

    if settings.adapt.start == "scratch":
        if settings.weights:
            raise InputError("adapt.start=scratch starts a new model: leave out weights=")
        say("no weights: adapt.start=scratch")
        return
    source, weights = find_weights(settings, run)
    leak = describe_leak(choose_predicted_tasks(settings), weights)
    if leak and settings.predict.refuse_leaks:
        raise InputError(f"{leak} (predict.refuse_leaks=false packs them all the same)")
    copy_weights(source, folder, settings.kaggle.rows, with_settings=False)


def _add_tasks(folder: Path, settings: Settings) -> None:
    """Add the tasks of the recipe, without the solutions of those that are to be predicted."""
    for name, given, what in (
        ("data.fresh", settings.data.fresh, "fresh pairs"),
        ("data.evaluated", settings.data.evaluated, "tasks to evaluate on"),
        ("train.start_from", settings.train.start_from, "weights to start from"),
    ):
        if given:
            raise InputError(f"{name}: {what} do not travel to Kaggle; leave it out")
    trained = load_sources(settings.data.trained)
    predicted = load_sources(settings.data.predicted)
    left_out = settings.data.left_out
    refuse_leaks([task for task in trained if task.task_id not in left_out], predicted)
    for name, tasks in (("training", trained), ("evaluation", predicted)):
        if tasks:
            write_challenges(folder / f"arc-agi_{name}_challenges.json", tasks)
    if trained:
        for task in trained:
            if task.solutions is None:
                name = task.task_id
                raise InputError(f"data.trained: the solutions of task {name!r} are not known")
        write_solutions(folder / "arc-agi_training_solutions.json", trained)


def _add_wheels(folder: Path) -> None:
    """Add wheels of the program and of what Kaggle's image lacks; these are downloaded once."""
    folder = folder.resolve()
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)])
    store = downloads_folder() / "wheels"
    store.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    download += ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(_WHEELS)]
    copy = [*download, "--no-index", "--find-links", str(store), "-d", str(folder)]
    try:
        _run(copy)
    except InputError:
        _run([*download, "-d", str(store)])
        _run(copy)


def _run(command: Sequence[str]) -> None:
    """Run a command in the checkout; raise an InputError with its last line where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise InputError(f"{' '.join(command[2:4])}: {lines[-1]}")


def _write_notebook(folder: Path, stage: Stage, digest: str) -> None:
    """Write the notebook of a stage, made to take the package with this digest and no other."""
    path = _NOTEBOOKS / f"{stage}.ipynb"
    notebook = read_object(path)
    for cell in notebook["cells"]:
        # Kaggle takes the source of a cell as one text only.
        cell["source"] = "".join(cell["source"]).replace('PACKAGE = ""', f'PACKAGE = "{digest}"')
    assert digest in str(notebook), path
    write_json(folder / path.name, notebook)
