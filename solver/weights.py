"""Weights: the averaged model and its puzzle rows, all that a prediction needs.

They are read from a checkpoint of ours or of the TRM reference, or made anew.
"""

import errno
import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from augment.errors import InputError
from augment.files import hash_file, replace_folder, write_description
from augment.grid import shorten
from augment.puzzle_index import PuzzleIndex
from solver.checkpoint_files import (
    DESCRIPTION,
    FORMAT,
    ROWS,
    TRAINED_ON,
    WEIGHTS,
    is_export,
    is_of_training_run,
    read_trained_on,
    verify_checkpoint,
)
from solver.kinds import new_model, outline
from solver.model import Model
from solver.puzzle_table import PuzzleTable
from solver.reference import read_reference
from solver.rounding import Precision, restore_tensors, round_tensors
from solver.settings import ModelSettings


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The averaged model, the puzzle rows and what each row means."""

    model: Model
    table: PuzzleTable
    index: PuzzleIndex
    trained_on: NDArray[np.uint64]
    """Leak keys of the tasks whose solutions were trained on (``Dataset.trained_on``)."""
    source: str
    """Where the weights come from, for the person who reads the log."""
    digest: str
    """Equal for equal weights and rows only."""


def new_weights(model: ModelSettings, seed: int) -> Weights:
    """Return an untrained model, to start test-time training from scratch."""
    index = PuzzleIndex.empty(model.rows_per)
    table = PuzzleTable(index.num_rows, torch.zeros(model.dim))
    untrained = new_model(model, seed).requires_grad_(False)
    nothing = np.empty(0, np.uint64)
    return Weights(untrained, table, index, nothing, "a new model", f"{model} {seed}")


def load_weights(path: Path) -> Weights:
    """Return the weights of a checkpoint folder, or of a reference checkpoint's ``step_N`` file.

    A reference checkpoint does not say which row belongs to which demonstrations, so only its
    trunk and its mean row are used; nor does it say which solutions it was trained on. Raises
    :class:`InputError` where there is no intact checkpoint, or one of other tensors than its
    architecture asks for, or of numbers that are not finite; no memory is taken before.
    """
    if path.is_file():
        trm, rows_ND = read_reference(path)
        table = PuzzleTable(1, rows_ND[1:].mean(0))
        source = f"{path} (reference; what it was trained on is not known)"
        index, trained_on = PuzzleIndex.empty("view"), np.empty(0, np.uint64)
        return Weights(trm, table, index, trained_on, source, hash_file(path))
    if not path.is_dir():
        raise InputError(f"{path}: no such checkpoint")
    description = verify_checkpoint(path)
    settings = _read_architecture(description["architecture"], path / DESCRIPTION)
    index = PuzzleIndex.load(path)
    if index.digest != description["rows_digest"] or index.rows_per != settings.rows_per:
        raise InputError(f"{path}: the rows are not those of its puzzle index")
    state = read_weights(path, settings)
    table = read_rows(path, settings, index)
    trained_on = read_trained_on(path)
    model = new_model(settings)
    model.load_state_dict(state)
    source = f"{path}, step {description['step']}"
    digest = hashlib.sha256(orjson.dumps(description["files"], option=orjson.OPT_SORT_KEYS))
    model.requires_grad_(False)
    return Weights(model, table, index, trained_on, source, digest.hexdigest())


def _read_architecture(raw: Mapping[str, object], path: Path) -> ModelSettings:
    """Return the settings of a model as ``path`` describes them."""
    hints = get_type_hints(ModelSettings)
    if missing := sorted(hints.keys() - raw.keys()):
        raise InputError(f"{path}: architecture: {missing[0]} is missing")
    for name, value in raw.items():
        hint = hints.get(name)
        kinds = (int, float) if hint is float else (hint,)
        is_choice = get_origin(hint) is Literal
        if not (value in get_args(hint) if is_choice else type(value) in kinds):
            raise InputError(f"{path}: architecture: {shorten(name)} is {shorten(value)}")
    try:
        return ModelSettings(**raw)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{path}: architecture: {error}") from None


def read_weights(folder: Path, settings: ModelSettings) -> dict[str, Tensor]:
    """Return the weights that a checkpoint of a model of these settings holds."""
    state = _restore_tensors(folder / WEIGHTS)
    require_like(folder / WEIGHTS, state, outline(settings).state_dict())
    return state


def read_rows(folder: Path, settings: ModelSettings, index: PuzzleIndex) -> PuzzleTable:
    """Return the puzzle rows that a checkpoint of a model of these settings holds."""
    path = folder / ROWS
    tensors = _restore_tensors(path)
    num_trained = tensors["numbers"].numel() if "numbers" in tensors else 0
    require_like(path, tensors, {
        "start": torch.empty(settings.dim, device="meta"),
        "numbers": torch.empty(num_trained, dtype=torch.int64, device="meta"),
        "rows": torch.empty(num_trained, settings.dim, device="meta"),
    })  # fmt: skip
    try:
        return PuzzleTable.from_tensors(index.num_rows, tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _restore_tensors(path: Path) -> dict[str, Tensor]:
    rounded = read_tensors(path)
    try:
        return restore_tensors(rounded)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file, which are together as large as the file."""
    try:
        return load_file(path)
    except (KeyError, OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: not a file of tensors ({shorten(str(error))})") from None


def require_like(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise :class:`InputError` unless the tensors of a file are such as expected, and finite.

    They have the same names, shapes and types; the line names the file and the tensor.
    """
    for name in sorted(tensors.keys() ^ expected.keys()):
        what = "is not of its architecture" if name in tensors else "is missing"
        raise InputError(f"{path}: {shorten(name)} {what}")
    for name, tensor in tensors.items():
        like = expected[name]
        if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            raise InputError(
                f"{path}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, "
                f"not {tuple(like.shape)} of {like.dtype}"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{path}: {name} has a number that is not finite")


def export_weights(source: Path, destination: Path, precision: Precision = "float32") -> None:
    """Copy the weights of a checkpoint to ``destination``, without what only training needs.

    ``precision``: rounded to that; whoever loads them computes as before. What lies there is
    replaced if it is such an export, and is an :class:`InputError` if it is anything else.
    """
    place = Path(os.path.realpath(destination))  # resolve() raises for a link to itself
    if is_of_training_run(place):
        raise InputError(f"{destination}: a checkpoint of a training run has this name; it stays")
    if os.path.lexists(place) and not is_export(place):
        raise InputError(f"{destination}: exists and is no export; it is left as it is")
    with replace_folder(place) as temporary:
        copy_weights(source, temporary, precision=precision)


def copy_weights(
    source: Path,
    folder: Path,
    rows: Literal["mean", "all"] = "all",
    *,
    precision: Precision = "float32",
    with_settings: bool = True,
) -> None:
    """Copy the weights of a checkpoint into the empty ``folder``; see :func:`load_weights`.

    ``mean`` keeps of all puzzle rows only their mean, which is where new tasks start. The settings
    they were trained with may name paths of this machine, and can be left out.
    """
    weights = load_weights(source)
    table, index = weights.table, weights.index
    if rows == "mean":
        table, index = PuzzleTable(1, table.mean_row), PuzzleIndex.empty(index.rows_per)
    origin: dict[str, Any] = {"step": 0, "settings": {}, "code_version": f"reference {source.name}"}
    if source.is_dir():
        origin = verify_checkpoint(source)
    state = weights.model.state_dict()
    write_weights(folder, state, table, index, weights.trained_on, precision)
    describe_checkpoint(
        folder,
        origin["step"],
        weights.model.settings,
        origin["settings"] if with_settings else {},
        index,
        origin["code_version"],
    )


def write_weights(
    folder: Path,
    model: Mapping[str, Tensor],
    table: PuzzleTable,
    index: PuzzleIndex,
    trained_on: NDArray[np.uint64],
    precision: Precision = "float32",
) -> None:
    """Write the files of a checkpoint that :func:`load_weights` reads, but for its description.

    Raises :class:`InputError` where a number is too large for ``precision``.
    """
    for name, tensors in ((WEIGHTS, model), (ROWS, table.tensors())):
        rounded = round_tensors(tensors, precision)
        if not all(t.isfinite().all() for t in rounded.values()):
            raise InputError(f"{folder / name}: a weight is not finite in {precision}")
        save_tensors(folder / name, rounded)
    index.save(folder)
    np.save(folder / TRAINED_ON, trained_on, allow_pickle=False)


def describe_checkpoint(
    folder: Path,
    step: int,
    architecture: ModelSettings,
    settings: Mapping[str, object],
    index: PuzzleIndex,
    code_version: str,
) -> None:
    """Write the description of a checkpoint, with the hash of every file in ``folder``."""
    for path in folder.iterdir():
        flush_to_disk(path)
    description = {
        "format": FORMAT,
        "step": step,
        "architecture": asdict(architecture),
        "settings": settings,
        "rows_digest": index.digest,
        "code_version": code_version,
        "files": {path.name: hash_file(path) for path in sorted(folder.iterdir())},
    }
    write_description(folder / DESCRIPTION, description)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors; raise ``OSError`` where the disk does not take them."""
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    except SafetensorError as error:  # raised for a full disk
        raise OSError(errno.EIO, str(error), str(path)) from None


def flush_to_disk(path: Path) -> None:
    """Return when a file, or the names in a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
