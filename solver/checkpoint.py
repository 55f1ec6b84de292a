"""Checkpoints: a folder of safetensors files and one JSON that names and hashes them.

``checkpoint.json`` holds step, architecture, settings, code version, the row map's digest and the
SHA-256 of every other file. Weights and puzzle rows are enough to predict; the training files
beside them are what a run needs to go on exactly where it stopped.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from augment.dataset import Examples
from augment.errors import InputError
from augment.files import hash_file, read_description, replace_folder, write_description
from augment.puzzles import PuzzleIndex
from solver.batch import Carry
from solver.model import TRM, State
from solver.optimizer import optimizer_tensors, restore_optimizer
from solver.packing import lengths_of
from solver.puzzle_embedding import PuzzleTable
from solver.reference import read_reference
from solver.settings import ModelSettings
from solver.train import Training
from solver.world import World

_FORMAT = 2
_DESCRIPTION = "checkpoint.json"
_FOLDER = "step_{:09d}"
_TAUGHT = "taught.npy"


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What prediction needs: the averaged model, the puzzle rows and what each row means."""

    model: TRM
    table: PuzzleTable
    index: PuzzleIndex
    taught: NDArray[np.uint64]
    """Digests of what tasks whose answers were trained on have taught (``Dataset.taught``)."""
    source: str
    """Where the weights come from, for the person who reads the log."""
    digest: str
    """The same for the same weights and rows, and for no others."""


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint with the highest step in ``folder``, None when there is none."""
    return max(_finished(folder), default=None)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was written, from its name."""
    return int(checkpoint.name.removeprefix("step_"))


def _finished(folder: Path) -> list[Path]:
    """Return the whole checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob("step_" + "[0-9]" * 9))


def save_checkpoint(
    folder: Path,
    training: Training,
    index: PuzzleIndex,
    taught: NDArray[np.uint64],
    settings: Mapping[str, object],
    code_version: str,
    world: World,
    *,
    keep: int,
    save_carry: bool,
) -> None:
    """Write the checkpoint of the present step into ``folder``; called by every process.

    The checkpoint appears under its name only when it is whole; the oldest beyond ``keep`` go.
    Raises ``OSError`` on every process when one could not write its part, and leaves nothing of it.
    """
    final = folder / _FOLDER.format(training.step)
    temporary = folder / f".{final.name}.tmp"
    device = training.sums.device

    def together(write: Callable[[], None], *, takes_part: bool) -> None:
        failure: OSError | None = None
        if takes_part:
            try:
                write()
            except OSError as error:
                failure = error
            except InputError as error:  # a file that was written cannot be read
                failure = OSError(str(error))
        if world.any(failure is not None, device):
            if world.leads:
                shutil.rmtree(temporary, ignore_errors=True)
            raise failure or OSError(f"{temporary}: another process could not write its part")

    def begin() -> None:
        for unfinished in folder.glob(".step_*.tmp"):
            shutil.rmtree(unfinished)
        temporary.mkdir(parents=True)

    def write_carry() -> None:
        _save_tensors(temporary / f"carry_{world.rank:05d}.safetensors", _pack(training.carry))

    def finish() -> None:
        model = training.model
        _write_weights(temporary, training.ema.state_of(model), training.table, index, taught)
        _save_tensors(
            temporary / "training.safetensors",
            {
                **_under("trunk.", dict(model.named_parameters())),
                **_under("optimizer.", optimizer_tensors(training.optimizer, model)),
                "sums": sums,
                "passed": torch.tensor(training.passed, dtype=torch.float64),
                "loss_scale": torch.tensor([training.scale.factor, training.scale.good_steps]),
            },
        )
        _describe(temporary, training.step, model.settings, settings, index, code_version)
        temporary.rename(final)
        _sync(folder)
        for old in _finished(folder)[:-keep]:
            shutil.rmtree(old)

    together(begin, takes_part=world.leads)
    together(write_carry, takes_part=save_carry)
    sums = world.sum_(training.sums)
    if not world.leads:
        sums.zero_()
    together(finish, takes_part=world.leads)


def set_broken_aside(folder: Path, say: Callable[[str], object]) -> None:
    """Rename the newest checkpoints in ``folder`` that are not as they were written, up to a whole.

    Each gets a line. What :func:`latest_checkpoint` returns afterwards is whole.
    """
    for checkpoint in reversed(_finished(folder)):
        try:
            verify_checkpoint(checkpoint)
        except InputError as error:
            aside = checkpoint.with_name(f"{checkpoint.name}.broken")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            say(f"{error}; set aside as {aside.name}, going on from what was before it")
        else:
            return


def export_weights(source: Path, destination: Path) -> None:
    """Write what prediction needs, and nothing that only training needs, to ``destination``."""
    if destination.exists() and not (destination / _DESCRIPTION).exists():
        raise InputError(f"{destination}: exists and is no checkpoint; it is left as it is")
    with replace_folder(destination) as temporary:
        write_weights(source, temporary)


def write_weights(source: Path, folder: Path, rows: Literal["mean", "all"] = "all") -> None:
    """Write what prediction needs into the empty ``folder``; see :func:`load_weights`.

    ``mean`` keeps of all puzzle rows only their mean, which is where new tasks start.
    """
    weights = load_weights(source)
    table, index = weights.table, weights.index
    if rows == "mean":
        table = PuzzleTable(1, table.mean_row)
        index = PuzzleIndex.of([], 0, 0, index.rows_per)
    _write_weights(folder, weights.model.state_dict(), table, index, weights.taught)
    origin: dict[str, Any] = {"step": 0, "settings": {}, "code_version": f"reference {source.name}"}
    if source.is_dir():
        origin = verify_checkpoint(source)
    architecture = weights.model.settings
    _describe(
        folder, origin["step"], architecture, origin["settings"], index, origin["code_version"]
    )


def _write_weights(
    folder: Path,
    model: Mapping[str, Tensor],
    table: PuzzleTable,
    index: PuzzleIndex,
    taught: NDArray[np.uint64],
) -> None:
    _save_tensors(folder / "weights.safetensors", model)
    _save_tensors(folder / "rows.safetensors", table.tensors())
    index.save(folder)
    np.save(folder / _TAUGHT, taught, allow_pickle=False)


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the description of a checkpoint whose every file has the hash it should have."""
    return read_description(folder / _DESCRIPTION, "checkpoint", _FORMAT)


def load_weights(path: Path) -> Weights:
    """Return the weights of a checkpoint folder, or of a reference checkpoint's ``step_N`` file.

    A reference checkpoint does not say which row belongs to which demonstrations, so only its
    trunk and its mean row are used; nor does it say which answers it was taught.
    """
    if path.is_file():
        model, rows_ND = read_reference(path)
        table = PuzzleTable(1, rows_ND[1:].mean(0))
        empty = PuzzleIndex.of([], 0, 0, "view")
        unknown = np.empty(0, np.uint64)
        return Weights(
            model,
            table,
            empty,
            unknown,
            f"{path} (reference; what it was taught is not known)",
            hash_file(path),
        )
    if not path.is_dir():
        raise InputError(f"{path}: no such checkpoint")
    description = verify_checkpoint(path)
    try:
        model = TRM(ModelSettings(**description["architecture"]))
        model.load_state_dict(load_file(path / "weights.safetensors"))
        index = PuzzleIndex.load(path)
        rows = load_file(path / "rows.safetensors")
        table = PuzzleTable.from_tensors(index.num_rows, rows)
        taught = np.load(path / _TAUGHT, allow_pickle=False)
    except (IndexError, KeyError, OSError, RuntimeError, SafetensorError, TypeError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(f"{path}: weights do not fit their description ({reason})") from None
    if index.digest != description["rows_digest"]:
        raise InputError(f"{path}: the rows are not those of its row map")
    source = f"{path}, step {description['step']}"
    digest = hashlib.sha256(orjson.dumps(description["files"], option=orjson.OPT_SORT_KEYS))
    return Weights(model.requires_grad_(False), table, index, taught, source, digest.hexdigest())


def restore_training(
    folder: Path,
    training: Training,
    index: PuzzleIndex,
    settings: Mapping[str, object],
    world: World,
) -> None:
    """Put ``training`` back to where the checkpoint was written.

    Raises :class:`InputError`, naming every difference, when architecture, settings or row map
    are not those of the checkpoint. Slots without a saved carry start with fresh examples.
    """
    description = verify_checkpoint(folder)
    differences = [
        *_differences("model", description["architecture"], asdict(training.model.settings)),
        *_differences("", description["settings"], settings),
    ]
    if description["rows_digest"] != index.digest:
        differences.append("the tasks or views of the data set")
    if differences:
        raise InputError(f"{folder}: cannot go on, these differ: {'; '.join(differences)}")
    device = training.sums.device
    model = training.model
    saved = load_file(folder / "training.safetensors", device=str(device))
    average = load_file(folder / "weights.safetensors", device=str(device))
    model.load_state_dict({**average, **_below("trunk.", saved)})
    restore_optimizer(training.optimizer, model, _below("optimizer.", saved))
    for name, tensor in training.ema.average.items():
        tensor.copy_(average[name])
    rows = load_file(folder / "rows.safetensors")
    training.table = PuzzleTable.from_tensors(index.num_rows, rows).to(device)
    factor, good_steps = saved["loss_scale"].tolist()
    training.scale.factor, training.scale.good_steps = factor, int(good_steps)
    training.sums.copy_(saved["sums"] if world.leads else torch.zeros_like(training.sums))
    training.step = description["step"]
    training.passed = saved["passed"].item() if "passed" in saved else 0.0
    carries = [load_file(path) for path in sorted(folder.glob("carry_*.safetensors"))]
    if carries:
        joined = {name: torch.cat([carry[name] for carry in carries]) for name in carries[0]}
        training.carry = _unpack(joined, world, model.settings, device)


def _pack(carry: Carry) -> dict[str, Tensor]:
    arrays = {**carry.examples.columns, "steps": carry.steps_B, "halted": carry.halted_B}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {**carry.state._asdict(), **tensors}


def _unpack(
    tensors: dict[str, Tensor], world: World, settings: ModelSettings, device: torch.device
) -> Carry:
    """Return this process' share of the slots of all."""
    state = State(tensors.pop("y"), tensors.pop("z"))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    steps_B, halted_B = arrays.pop("steps"), arrays.pop("halted")
    examples = Examples(**arrays)
    ends = np.cumsum([0, *lengths_of(examples.boxes, settings)])
    share = world.share(len(steps_B))
    positions = slice(ends[share.start], ends[share.stop])
    return Carry(
        examples.take(share),
        steps_B[share],
        halted_B[share],
        State(*(tensor[positions].to(device) for tensor in state)),
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _differences(place: str, saved: object, present: object) -> list[str]:
    """Return a line for every setting that is not the same."""
    if isinstance(saved, Mapping) and isinstance(present, Mapping):
        return [
            difference
            for key in sorted(saved.keys() | present.keys())
            for difference in _differences(
                f"{place}.{key}".removeprefix("."), saved.get(key), present.get(key)
            )
        ]
    same = orjson.dumps(saved) == orjson.dumps(present)  # tuples and lists are one in JSON
    return [] if same else [f"{place} was {saved!r}, now {present!r}"]


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    except SafetensorError as error:  # which is how a full disk shows itself here
        raise OSError(errno.EIO, str(error), str(path)) from None


def _describe(
    folder: Path,
    step: int,
    architecture: ModelSettings,
    settings: Mapping[str, object],
    index: PuzzleIndex,
    code_version: str,
) -> None:
    for path in folder.iterdir():
        _sync(path)
    description = {
        "format": _FORMAT,
        "step": step,
        "architecture": asdict(architecture),
        "settings": settings,
        "rows_digest": index.digest,
        "code_version": code_version,
        "files": {path.name: hash_file(path) for path in sorted(folder.iterdir())},
    }
    write_description(folder / _DESCRIPTION, description)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
