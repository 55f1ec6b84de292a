"""The files of a checkpoint, by name; without torch, so that any program can look at them.

A training run writes each checkpoint into a folder ``step_000000500`` of its own.
"""

import re
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augment.errors import InputError
from augment.files import read_description

FORMAT = 3
DESCRIPTION = "checkpoint.json"
WEIGHTS = "weights.safetensors"
ROWS = "rows.safetensors"
TRAINED_ON = "taught.npy"
TRAINING = "training.safetensors"
CARRY = "carry_{rank:05d}.safetensors"

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
    return sorted(path for path in folder.iterdir() if _FOLDER_NAME.fullmatch(path.name))


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint with the highest step in ``folder``, None when there is none."""
    return max(find_checkpoints(folder), default=None)


def is_checkpoint(folder: Path) -> bool:
    """Return whether ``folder`` has the description of a checkpoint."""
    return (folder / DESCRIPTION).exists()


def can_resume(checkpoint: Path) -> bool:
    """Return whether a checkpoint holds what training needs to go on, not the weights alone."""
    return (checkpoint / TRAINING).exists()


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the description of a checkpoint; every file must have the SHA-256 that it names."""
    return read_description(folder / DESCRIPTION, "checkpoint", FORMAT)


def read_trained_on(folder: Path) -> NDArray[np.uint64]:
    """Return the leak keys of what a checkpoint was trained on; none where it has no such file."""
    path = folder / TRAINED_ON
    return np.load(path, allow_pickle=False) if path.exists() else np.empty(0, np.uint64)


def rename_damaged(folder: Path, warn: Callable[[str], object]) -> None:
    """Rename damaged checkpoints in ``folder``, newest first, until an intact one is found.

    Each gets the suffix ``.broken`` and a warning.
    """
    for checkpoint in reversed(find_checkpoints(folder)):
        try:
            verify_checkpoint(checkpoint)
        except InputError as error:
            aside = checkpoint.with_name(f"{checkpoint.name}.broken")
            rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            warn(f"{error}; set aside as {aside.name}, going on from what was before it")
        else:
            return
