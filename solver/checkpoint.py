"""Checkpoints: a folder of safetensors files and one JSON that names and hashes them.

``checkpoint.json`` holds step, architecture, settings, code version, the digest of the puzzle index
and the SHA-256 of every other file. Weights and puzzle rows are enough to predict; the training
files beside them let a run resume exactly where it stopped.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from augment.errors import InputError
from augment.examples import Examples
from augment.puzzles import PuzzleIndex
from solver.carry import Carry
from solver.checkpoint_files import (
    CARRY,
    ROWS,
    TRAINING,
    WEIGHTS,
    checkpoint_folder,
    find_checkpoints,
    verify_checkpoint,
)
from solver.model import State
from solver.optimizer import optimizer_tensors, restore_optimizer
from solver.packing import lengths_of
from solver.process_group import ProcessGroup
from solver.puzzle_table import PuzzleTable
from solver.settings import ModelSettings
from solver.train import Training
from solver.weights import describe_checkpoint, flush_to_disk, save_tensors, write_weights


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointWriter:
    """Writes the checkpoints of a training run into ``folder``; every process has one."""

    folder: Path
    index: PuzzleIndex
    trained_on: NDArray[np.uint64]
    """Leak keys, see ``Dataset.trained_on``."""
    code_version: str
    group: ProcessGroup
    keep: int
    """Newest checkpoints kept."""
    saves_carry: bool = True
    saves_training: bool = True
    """Without it only weights are saved, from which no run resumes."""

    def save(self, training: Training, settings: Mapping[str, object]) -> None:
        """Write the checkpoint of the present step; called by every process.

        It appears under its name only when it is complete; then the oldest beyond ``keep`` go.
        Raises ``OSError`` on every process when one of them could not write its part, and leaves
        nothing of it.
        """
        group = self.group
        checkpoint = checkpoint_folder(self.folder, training.step)
        temporary = checkpoint.with_name(f".{checkpoint.name}.tmp")
        group.all_reduce(training.sums)
        if not group.is_rank0:
            training.sums.zero_()  # rank 0 holds all from here on

        def write_carry() -> None:
            carry = temporary / CARRY.format(rank=group.rank)
            save_tensors(carry, _pack_carry(training.carry))

        def finish() -> None:
            self._write(temporary, training, settings)
            temporary.rename(checkpoint)
            flush_to_disk(self.folder)
            for old in find_checkpoints(self.folder)[: -self.keep]:
                shutil.rmtree(old)

        self._attempt(temporary, lambda: self._make_room(temporary), takes_part=group.is_rank0)
        self._attempt(temporary, write_carry, takes_part=self.saves_carry)
        self._attempt(temporary, finish, takes_part=group.is_rank0)

    def _make_room(self, temporary: Path) -> None:
        for unfinished in self.folder.glob(".step_*.tmp"):
            shutil.rmtree(unfinished)
        temporary.mkdir(parents=True)

    def _write(self, folder: Path, training: Training, settings: Mapping[str, object]) -> None:
        model = training.model
        average = training.ema.state_of(model)
        write_weights(folder, average, training.table, self.index, self.trained_on)
        if self.saves_training:
            save_tensors(folder / TRAINING, _pack_training(training))
        describe_checkpoint(
            folder, training.step, model.settings, settings, self.index, self.code_version
        )

    def _attempt(self, temporary: Path, write: Callable[[], None], *, takes_part: bool) -> None:
        """Write on the processes that take part; raise on all where one of them failed."""
        failure: OSError | None = None
        if takes_part:
            try:
                write()
            except OSError as error:
                failure = error
            except InputError as error:  # a file that was just written cannot be read
                failure = OSError(str(error))
        if self.group.any(failure is not None):
            if self.group.is_rank0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise failure or OSError(f"{temporary}: another process could not write its part")


def restore_training(
    checkpoint: Path,
    training: Training,
    index: PuzzleIndex,
    settings: Mapping[str, object],
    group: ProcessGroup,
) -> None:
    """Set ``training`` to the state that the checkpoint holds.

    Raises :class:`InputError`, naming every difference, when architecture, settings or puzzle index
    are not those of the checkpoint. Lanes without a saved carry start with new examples.
    """
    description = verify_checkpoint(checkpoint)
    differences = [
        *_differences("model", description["architecture"], asdict(training.model.settings)),
        *_differences("", description["settings"], settings),
    ]
    if description["rows_digest"] != index.digest:
        differences.append("the tasks or views of the data set")
    if differences:
        raise InputError(f"{checkpoint}: cannot go on, these differ: {'; '.join(differences)}")
    model, device = training.model, group.device
    saved = load_file(checkpoint / TRAINING, device=str(device))
    average = load_file(checkpoint / WEIGHTS, device=str(device))
    model.load_state_dict({**average, **_remove_prefix("trunk.", saved)})
    restore_optimizer(training.optimizer, model, _remove_prefix("optimizer.", saved))
    for name, tensor in training.ema.average.items():
        tensor.copy_(average[name])
    rows = load_file(checkpoint / ROWS)
    training.table = PuzzleTable.from_tensors(index.num_rows, rows).to(device)
    factor, good_steps = saved["loss_scale"].tolist()
    training.scale.factor, training.scale.good_steps = factor, int(good_steps)
    training.sums.copy_(saved["sums"] if group.is_rank0 else torch.zeros_like(training.sums))
    training.step = description["step"]
    training.progress = saved["passed"].item()
    carries = [load_file(path) for path in sorted(checkpoint.glob("carry_*.safetensors"))]
    if carries:
        joined = {name: torch.cat([carry[name] for carry in carries]) for name in carries[0]}
        training.carry = _unpack_carry(joined, group, model.settings)


def _pack_training(training: Training) -> dict[str, Tensor]:
    model, scale = training.model, training.scale
    return {
        **_add_prefix("trunk.", dict(model.named_parameters())),
        **_add_prefix("optimizer.", optimizer_tensors(training.optimizer, model)),
        "sums": training.sums,
        "passed": torch.tensor(training.progress, dtype=torch.float64),
        "loss_scale": torch.tensor([scale.factor, scale.good_steps]),
    }


def _pack_carry(carry: Carry) -> dict[str, Tensor]:
    arrays = {**carry.examples.columns, "steps": carry.steps_B, "halted": carry.halted_B}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {**carry.state._asdict(), **tensors}


def _unpack_carry(
    tensors: dict[str, Tensor], group: ProcessGroup, settings: ModelSettings
) -> Carry:
    """Return this process' share of all lanes."""
    state = State(tensors.pop("y"), tensors.pop("z"))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    steps_B, halted_B = arrays.pop("steps"), arrays.pop("halted")
    examples = Examples(**arrays)
    ends = np.cumsum([0, *lengths_of(examples.boxes, settings)])
    share = group.share(len(steps_B))
    positions = slice(ends[share.start], ends[share.stop])
    return Carry(
        examples.take(share),
        steps_B[share],
        halted_B[share],
        State(*(tensor[positions].to(group.device) for tensor in state)),
    )


def _add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _remove_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _differences(name: str, saved: object, present: object) -> list[str]:
    """Return a line for every setting that is not the same."""
    if isinstance(saved, Mapping) and isinstance(present, Mapping):
        return [
            difference
            for key in sorted(saved.keys() | present.keys())
            for difference in _differences(
                f"{name}.{key}".removeprefix("."), saved.get(key), present.get(key)
            )
        ]
    same = orjson.dumps(saved) == orjson.dumps(present)  # to JSON a tuple is a list
    return [] if same else [f"{name} was {saved!r}, now {present!r}"]
