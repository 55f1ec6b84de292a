"""Checkpoints: a folder of safetensors files and one JSON that names and hashes them.

``checkpoint.json`` holds step, architecture, settings, code version, the digest of the puzzle index
and the SHA-256 of every other file. Weights and puzzle rows are enough to predict; the training
files beside them let a run resume exactly where it stopped.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.errors import InputError
from augment.examples import Examples
from augment.puzzle_index import PuzzleIndex
from augment.tokens import NUM_TOKENS
from augment.view import NUM_VIEWS
from solver.carry import Carry
from solver.checkpoint_files import (
    CARRY,
    TRAINING,
    checkpoint_folder,
    checkpoint_step,
    find_checkpoints,
    is_carry,
    remove_checkpoint,
    verify_checkpoint,
)
from solver.optimizer import optimizer_tensors, outline_optimizer, restore_optimizer
from solver.packing import lengths_of
from solver.process_group import ProcessGroup
from solver.train import Training
from solver.weights import (
    describe_checkpoint,
    flush_to_disk,
    read_rows,
    read_tensors,
    read_weights,
    require_like,
    save_tensors,
    write_weights,
)


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
        nothing of it. Either way rank 0 has the ``training.sums`` of all processes afterwards.
        """
        group = self.group
        checkpoint = checkpoint_folder(self.folder, training.step)
        temporary = checkpoint.with_name(f".{checkpoint.name}.tmp")
        group.all_reduce(training.sums)
        if not group.is_rank0:
            training.sums.zero_()  # rank 0 holds all from here on

        def write_carry() -> None:
            carry = temporary / CARRY.format(rank=group.rank)
            save_tensors(carry, _pack_carry(training))

        def finish() -> None:
            self._write(temporary, training, settings)
            temporary.rename(checkpoint)
            flush_to_disk(self.folder)
            for old in find_checkpoints(self.folder)[: -self.keep]:
                remove_checkpoint(old)

        self._attempt(temporary, lambda: self._make_room(temporary), takes_part=group.is_rank0)
        self._attempt(temporary, write_carry, takes_part=self.saves_carry)
        self._attempt(temporary, finish, takes_part=group.is_rank0)

    def _make_room(self, temporary: Path) -> None:
        for unfinished in self.folder.glob(".step_*.tmp"):
            remove_checkpoint(unfinished)
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


class OtherRunError(InputError):
    """A checkpoint is of other settings, of another architecture or of other tasks."""


def restore_training(
    checkpoint: Path,
    training: Training,
    index: PuzzleIndex,
    settings: Mapping[str, object],
    group: ProcessGroup,
) -> None:
    """Set ``training`` to the state that the checkpoint holds.

    Raises :class:`OtherRunError`, naming every difference, when architecture, settings or puzzle
    index are not those of the checkpoint; :class:`InputError` where it is damaged. ``training``
    stays as it is then. Lanes without a saved carry start with new examples.
    """
    description = verify_checkpoint(checkpoint)
    if description["step"] != checkpoint_step(checkpoint):
        raise InputError(f"{checkpoint}: its step is {description['step']}, not that of its name")
    differences = [
        *_differences("model", description["architecture"], asdict(training.model.settings)),
        *_differences("", description["settings"], settings),
    ]
    if description["rows_digest"] != index.digest:
        differences.append("the tasks or views of the data set")
    if differences:
        raise OtherRunError(
            f"{checkpoint}: cannot go on, these differ: {'; '.join(differences)}; set them "
            "back, or name another run"
        )
    model, device = training.model, group.device
    if TRAINING not in description["files"]:
        raise InputError(f"{checkpoint}: {TRAINING} is not among its files")
    saved = read_tensors(checkpoint / TRAINING)
    of_optimizer = _remove_prefix("optimizer.", saved)
    expected = _pack_training(training)
    expected |= _add_prefix(
        "optimizer.", outline_optimizer(training.optimizer, model, of_optimizer)
    )
    require_like(checkpoint / TRAINING, saved, expected)
    factor, good_steps = saved["loss_scale"].tolist()
    if not 1 <= factor <= training.scale.largest:
        raise InputError(f"{checkpoint / TRAINING}: loss_scale: the factor is {factor}")
    not_negative = [
        tensor for name, tensor in of_optimizer.items() if not name.endswith(".exp_avg")
    ]
    if good_steps < 0 or any((t < 0).any() for t in (saved["passed"], *not_negative)):
        raise InputError(f"{checkpoint / TRAINING}: a count or a mean square is less than 0")
    average = read_weights(checkpoint, model.settings)
    table = read_rows(checkpoint, model.settings, index)
    carries = [checkpoint / name for name in sorted(description["files"]) if is_carry(name)]
    carry = _read_carry(carries, training, index, group) if carries else training.carry
    model.load_state_dict({**average, **_remove_prefix("trunk.", saved)})
    restore_optimizer(training.optimizer, model, of_optimizer)
    for name, tensor in training.ema.average.items():
        tensor.copy_(average[name])
    training.table = table.to(device)
    training.scale.factor, training.scale.good_steps = factor, int(good_steps)
    training.sums.copy_(saved["sums"] if group.is_rank0 else torch.zeros_like(training.sums))
    training.step = description["step"]
    training.progress = saved["passed"].item()
    training.carry = carry


def _pack_training(training: Training) -> dict[str, Tensor]:
    model, scale = training.model, training.scale
    return {
        **_add_prefix("trunk.", dict(model.named_parameters())),
        **_add_prefix("optimizer.", optimizer_tensors(training.optimizer, model)),
        "sums": training.sums,
        "passed": torch.tensor(training.progress, dtype=torch.float64),
        "loss_scale": torch.tensor([scale.factor, scale.good_steps]),
    }


def _pack_carry(training: Training) -> dict[str, Tensor]:
    carry = training.carry
    arrays = {**carry.examples.columns, "steps": carry.steps_B, "halted": carry.halted_B}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {**dict(zip(training.model.STATES, carry.state, strict=True)), **tensors}


def _read_carry(
    paths: Sequence[Path], training: Training, index: PuzzleIndex, group: ProcessGroup
) -> Carry:
    """Return this process' share of all lanes, whose carries lie in ``paths``."""
    settings, states = training.model.settings, training.model.STATES
    like = _pack_carry(training)
    carries = [read_tensors(path) for path in paths]
    for path, carry in zip(paths, carries, strict=True):
        lengths = {name: len(tensor) if tensor.ndim else 0 for name, tensor in carry.items()}
        expected = {}
        for name, tensor in like.items():
            length = lengths.get(states[0] if name in states else "halted", 0)
            shape = (length, *tensor.shape[1:])
            expected[name] = torch.empty(shape, dtype=tensor.dtype, device="meta")
        require_like(path, carry, expected)
    tensors = {name: torch.cat([carry[name] for carry in carries]) for name in like}
    state = tuple(tensors.pop(name) for name in states)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    steps_B, halted_B = arrays.pop("steps"), arrays.pop("halted")
    examples = Examples(**arrays)
    boxes_B4 = examples.boxes
    limits = (
        (examples.inputs, NUM_TOKENS), (examples.labels, NUM_TOKENS), (examples.codes, NUM_VIEWS),
        (examples.rows, index.num_rows), (boxes_B4, settings.canvas_side + 1),
        (boxes_B4[:, :2] + boxes_B4[:, 2:], settings.canvas_side + 1),
        (steps_B, settings.max_supervision_steps + 1),
    )  # fmt: skip
    are_lanes = len(steps_B) == group.size * len(training.carry.halted_B) and all(
        ((column >= 0) & (column < limit)).all() for column, limit in limits
    )
    ends = np.cumsum([0, *lengths_of(boxes_B4, settings)]) if are_lanes else np.zeros(1, np.int64)
    if not are_lanes or ends[-1] != len(state[0]):
        raise InputError(f"{paths[0]}: not the lanes of this run")
    share = group.share(len(steps_B))
    positions = slice(ends[share.start], ends[share.stop])
    return Carry(
        examples.take(share),
        steps_B[share],
        halted_B[share],
        tuple(tensor[positions].to(group.device) for tensor in state),
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
