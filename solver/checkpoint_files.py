"""The files of a checkpoint, by name; without torch, so that any program can look at them.

A training run writes each checkpoint into a folder ``step_000000500`` of its own.
"""

import re
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from augment.arrays import read_array
from augment.errors import InputError, OtherFormatError
from augment.files import read_description
from augment.puzzle_index import PUZZLES, VIEWS

Loaded = TypeVar("Loaded")

FORMAT = 4
DESCRIPTION = "checkpoint.json"
WEIGHTS = "weights.safetensors"
ROWS = "rows.safetensors"
TRAINED_ON = "trained_on.npy"
TRAINING = "training.safetensors"
CARRY = "carry_{rank:05d}.safetensors"
_TO_PREDICT = (WEIGHTS, ROWS, PUZZLES, VIEWS, TRAINED_ON)

_FOLDER = "step_{step:09d}"
_FOLDER_NAME = re.compile("step_[0-9]{9}")


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return where the checkpoint of ``step`` lies in the ``folder`` of a training run."""
    return folder / _FOLDER.format(step=step)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was written, from its name."""
    return int(checkpoint.name.removeprefix("step_"))


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_of_training_run(path))


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint with the highest step in ``folder``, None when there is none."""
    return max(find_checkpoints(folder), default=None)


def is_checkpoint(folder: Path) -> bool:
    """Return whether ``folder`` has the description of a checkpoint."""
    return (folder / DESCRIPTION).exists()


def is_export(folder: Path) -> bool:
    """Return whether ``folder`` holds the files of exported weights and nothing else."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} == {
        DESCRIPTION, *_TO_PREDICT
    }  # fmt: skip


def is_of_training_run(folder: Path) -> bool:
    """Return whether ``folder`` has the name of a checkpoint of a training run."""
    return _FOLDER_NAME.fullmatch(folder.name) is not None


def is_carry(name: str) -> bool:
    """Return whether a file of this name in a checkpoint holds what lanes carry."""
    return re.fullmatch(r"carry_[0-9]{5}\.safetensors", name) is not None


def can_resume(checkpoint: Path) -> bool:
    """Return whether a checkpoint holds what training needs to go on, not the weights alone."""
    return (checkpoint / TRAINING).exists()


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the description of a checkpoint; every file must have the SHA-256 that it names."""
    return read_description(
        folder / DESCRIPTION, "checkpoint", FORMAT, _TO_PREDICT,
        step=int, architecture=dict, settings=dict, rows_digest=str, code_version=str,
    )  # fmt: skip


def read_trained_on(folder: Path) -> NDArray[np.uint64]:
    """Return the leak keys of what a checkpoint was trained on; none where it has no such file."""
    path = folder / TRAINED_ON
    return read_array(path, np.uint64) if path.exists() else np.empty(0, np.uint64)


def load_newest(
    folder: Path, load: Callable[[Path], Loaded], warn: Callable[[str], object]
) -> tuple[Path, Loaded] | None:
    """Return the newest intact checkpoint in ``folder`` and what ``load`` makes of it, if any.

    Damaged ones, for which ``load`` raises :class:`InputError`, are set aside. One of another
    format is not: its :class:`OtherFormatError` is raised.
    """
    for checkpoint in reversed(find_checkpoints(folder)):
        try:
            return checkpoint, load(checkpoint)
        except OtherFormatError:
            raise
        except InputError as error:
            set_aside(checkpoint, error, warn)
    return None


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, or the link or file that lies there; what a link leads to stays."""
    if folder.is_dir() and not folder.is_symlink():
        rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def set_aside(checkpoint: Path, error: InputError, warn: Callable[[str], object]) -> None:
    """Rename a damaged checkpoint, whose name gets the suffix ``.broken``, with a warning."""
    aside = checkpoint.with_name(f"{checkpoint.name}.broken")
    remove_checkpoint(aside)
    checkpoint.rename(aside)
    warn(f"{error}; set aside as {aside.name}, going on from what was before it")
