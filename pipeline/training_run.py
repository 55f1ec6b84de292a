"""A training run, pretraining or test-time training: the loop with all that surrounds it.

It goes on where an earlier call stopped, plans its memory, and survives a full disk, numbers out of
range and killed processes.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from augment.dataset import Dataset
from augment.errors import InputError, OtherFormatError
from augment.examples import ExampleStream, Stream
from augment.puzzle_index import PuzzleIndex
from augment.puzzle_set import PuzzleSet, PuzzleStream
from augment.task import Task
from pipeline.console import say, warn
from pipeline.deadline import Leg
from pipeline.evaluation import EXACT, LOSS, PASS2, Evaluation
from pipeline.fingerprint import fingerprint, fingerprint_code, fingerprint_visible
from pipeline.inputs import describe_leak
from pipeline.puzzle_sources import are_puzzles
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.training_log import TrainingLog, read_metrics
from pipeline.version import code_version
from solver.adapt import make_adaptation_dataset, start_adaptation, start_from_weights
from solver.checkpoint import CheckpointWriter, OtherRunError, restore_training
from solver.checkpoint_files import (
    checkpoint_step,
    find_checkpoints,
    latest_checkpoint,
    remove_checkpoint,
    set_aside,
)
from solver.engine import Engine
from solver.kinds import new_model
from solver.memory import plan_training
from solver.progress import TrainingProgress
from solver.puzzle_table import PuzzleTable
from solver.schedule import lr_multiplier
from solver.settings import TrainSettings
from solver.train import Training, require_finite, start_training, take_metrics, train
from solver.weights import Weights, load_weights

_ATTEMPTS = 4  # at training that leaves the range of numbers, each at half the learning rates

# Settings of a run that pretraining does not depend on, and those of train.* that may change.
_UNUSED_BY_PRETRAINING = (
    "checkpoint", "adapt", "predict", "weights", "shipped_weights", "engine", "kaggle", "log",
    "puzzles",
)  # fmt: skip
_FREE_TO_CHANGE = (
    "num_steps", "time_limit_seconds", "ends_in_seconds", "log_every", "eval_every", "eval_views",
)  # fmt: skip


@dataclass(slots=True)
class TrainingRun:
    """One call's part of a training run; every process has one."""

    stage: Literal["pretrain", "adapt"]
    settings: Settings
    run: Run
    engine: Engine
    index: PuzzleIndex
    stream: Stream
    train_settings: TrainSettings
    """Their learning rates are halved after numbers that left their range."""
    start: Callable[[TrainSettings], Training]
    """Returns the beginning of the run."""
    identity: Callable[[int], Mapping[str, object]]
    """Returns the settings that a checkpoint of a step must have to go on from it."""
    checkpoints: CheckpointWriter
    evaluation: Evaluation | None = None
    training: Training = field(init=False)
    resumed_from: str = field(init=False)
    """The checkpoint that the run went on from; empty at its beginning."""
    _best: tuple[float, ...] | None = field(init=False, default=None)
    _ends_at: float = field(init=False, default=math.inf)
    """When the learning rates have fallen, on ``time.monotonic``; whatever went wrong before."""

    def __post_init__(self) -> None:
        self._begin()

    @property
    def step(self) -> int:
        """The steps taken, those of earlier calls included."""
        return self.training.step

    def plan_memory(self) -> None:
        """Log the memory plan and have the engine follow it; raise where it does not fit."""
        line = plan_training(
            self.training.model,
            self.index.num_rows,
            self.stream,
            self.train_settings,
            self.engine,
            self.settings.engine.memory_gb,
        )
        say(f"memory: {line}")

    def train(self, leg: Leg) -> None:
        """Train until ``leg`` is over or all steps are taken.

        After numbers out of range it goes on from the newest checkpoint, at half the learning
        rates. Raises ``FloatingPointError`` where that did not help several times; the state is
        then that of the newest checkpoint.
        """
        if self.stage == "pretrain" and self.settings.train.ends_in_seconds:
            self._ends_at = time.monotonic() + self.settings.train.ends_in_seconds
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                self._train(leg)
                return
            except FloatingPointError as error:
                self.train_settings = self.train_settings.with_half_the_learning_rates()
                self._begin()
                if not attempts_left:
                    raise
                warn(f"{self.stage}: {error}; on from step {self.step} at half the learning rates")
                # What was learned since the checkpoint is lost, and so is the time it took.
                left = self.engine.group.min(max(0.0, leg.seconds_left))
                leg = leg.again(left, self.training.progress)

    def _train(self, leg: Leg) -> None:
        training, settings, group = self.training, self.train_settings, self.engine.group
        keeping, evaluate_every = self.settings.checkpoint, self.settings.train.eval_every
        progress = TrainingProgress(
            settings.num_steps, group, leg, leg.until, keeping.every_seconds,
            self._ends_at - time.monotonic(), share=leg.begin,
        )  # fmt: skip
        saved_step = training.step
        with TrainingLog(
            self.stage, settings, self.settings.log, self.run, training.step, leg
        ) as log:
            for step in train(training, self.stream, settings, self.engine, progress):
                log.count_step()
                if step % settings.log_every == 0:
                    log.write_metrics(take_metrics(training, settings, group))
                if self.evaluation and step % evaluate_every == 0:
                    require_finite(training, group)
                    self._evaluate(self.evaluation, log)
                if step % keeping.every == 0 or progress.takes_checkpoint():
                    self._save()
                    saved_step = step
            if saved_step != training.step:
                self._save()

    def _begin(self) -> None:
        """Start anew, or go on from the newest intact checkpoint of the same run."""
        group, folder = self.engine.group, self.checkpoints.folder
        self.training = self.start(self.train_settings)
        self.resumed_from = ""
        group.barrier()
        while (latest := self._latest()) is not None and not self.resumed_from:
            damage: InputError | None = None
            try:
                restore_training(
                    latest,
                    self.training,
                    self.index,
                    self.identity(checkpoint_step(latest)),
                    group,
                )
                self.resumed_from = str(latest)
            except (OtherRunError, OtherFormatError):
                if self.stage == "pretrain":
                    raise
                group.barrier()
                warn(f"{self.stage}: {folder} is of other tasks or settings: deleted, begun anew")
                if group.is_rank0:
                    rmtree(folder)
            except InputError as error:
                damage = error
            if group.any(damage is not None):
                self.resumed_from = ""
                if group.is_rank0:
                    set_aside(latest, damage or InputError(f"{latest}: damaged"), warn)
            group.barrier()
        if group.is_rank0:
            self._forget_what_came_later()
        group.barrier()

    def _latest(self) -> Path | None:
        """Return the newest checkpoint, the same on all processes."""
        group, folder = self.engine.group, self.checkpoints.folder
        latest = latest_checkpoint(folder)
        step = -1 if latest is None else checkpoint_step(latest)
        if group.any(step != group.broadcast(step)):
            raise InputError(f"{folder}: not the same on all nodes, which must share this disk")
        return latest

    def _forget_what_came_later(self) -> None:
        """Remove metrics of a run that starts anew, and a best checkpoint of a later step."""
        metrics = self.run.metrics_of(self.stage)
        if self.stage == "adapt" and not self.resumed_from:  # no steps may follow, so no log either
            with suppress(OSError):
                metrics.unlink()
        if self.evaluation is None:
            return
        for checkpoint in find_checkpoints(self.run.best):
            if checkpoint_step(checkpoint) > self.step:
                remove_checkpoint(checkpoint)
        best = latest_checkpoint(self.run.best)
        with suppress(InputError):  # damaged or missing: the next evaluation is the best so far
            for line in read_metrics(metrics):
                is_evaluation = line.keys() >= {LOSS, EXACT}
                if best and is_evaluation and line["step"] == checkpoint_step(best):
                    self._best = _quality(line)

    def _evaluate(self, evaluation: Evaluation, log: TrainingLog) -> None:
        """Measure the averaged model on held-out tests, and keep it if it is the best so far."""
        values = evaluation.measure(self.training)
        log.write_evaluation(self.step, values)
        group, quality = self.engine.group, _quality(values)
        is_best = group.broadcast(self._best is None or quality > self._best)
        if is_best and self.settings.checkpoint.keep_best:
            self._best = quality
            writer = replace(
                self.checkpoints, folder=self.run.best, keep=1, saves_carry=False,
                saves_training=False,
            )  # fmt: skip
            self._save(writer)

    def _save(self, writer: CheckpointWriter | None = None) -> None:
        """Write a checkpoint; where that fails training goes on, and older ones stay."""
        try:
            require_finite(self.training, self.engine.group)
            (writer or self.checkpoints).save(self.training, self.identity(self.step))
        except OSError as error:
            warn(f"{self.stage}: step {self.step} could not be kept ({error}); going on")


def _quality(values: Mapping[str, float | None]) -> tuple[float, ...]:
    """Return what is larger for the better evaluation."""
    return values.get(PASS2) or 0.0, values[EXACT] or 0.0, -(values[LOSS] or 0.0)


def open_pretraining(
    settings: Settings,
    run: Run,
    engine: Engine,
    dataset: Dataset | PuzzleSet,
    evaluated: Sequence[Task] | PuzzleSet,
) -> TrainingRun:
    """Return the pretraining of ``settings``, evaluated on ``evaluated``: tests, or puzzles."""
    weights, trained_on = None, dataset.trained_on
    if settings.train.start_from:
        weights = load_weights(Path(settings.train.start_from))
        tasks = () if isinstance(dataset, PuzzleSet) else dataset.tasks
        hidden = [task for task in tasks if task.solutions is None]
        if leak := describe_leak(hidden, weights):
            raise InputError(f"train.start_from: {leak}; start from others, or leave these out")
        trained_on = np.union1d(trained_on, weights.trained_on)

    def start(train_settings: TrainSettings) -> Training:
        if weights is not None:
            return start_from_weights(
                weights, dataset.index, settings.model, train_settings, engine
            )
        table = PuzzleTable(dataset.index.num_rows, torch.zeros(settings.model.dim))
        model = new_model(settings.model, train_settings.seed)
        return start_training(model, table, train_settings, engine)

    def identity(step: int) -> Mapping[str, object]:
        values = _settings_of_pretraining(settings, engine, step)
        if weights is not None:
            values["train"]["start_from"] = weights.digest
        return values

    evaluation = None
    if isinstance(evaluated, PuzzleSet):
        unknown = np.flatnonzero(~np.isin(evaluated.keys, trained_on))
        if not len(unknown):
            raise InputError(
                "data.evaluated: every puzzle, or one of its symmetries, is trained on"
            )
        evaluation = Evaluation.of_puzzles(evaluated.take(unknown), engine)
    elif evaluated and isinstance(dataset, Dataset):
        evaluation = Evaluation.of(evaluated, dataset, settings.train.eval_views, engine)
    writer = _open_writer(run.checkpoints, dataset.index, trained_on, settings, engine)
    return TrainingRun(
        "pretrain", settings, run, engine, dataset.index,
        _open_stream(dataset, settings), settings.train, start, identity, writer,
        evaluation,
    )  # fmt: skip


def _open_stream(dataset: Dataset | PuzzleSet, settings: Settings) -> Stream:
    if isinstance(dataset, PuzzleSet):
        return PuzzleStream(dataset, settings.train.seed, settings.puzzles.symmetries)
    return ExampleStream(dataset, settings.train.seed)


def _open_writer(
    folder: Path,
    index: PuzzleIndex,
    trained_on: NDArray[np.uint64],
    settings: Settings,
    engine: Engine,
) -> CheckpointWriter:
    keeping = settings.checkpoint
    return CheckpointWriter(
        folder, index, trained_on, code_version(), engine.group, keeping.keep, keeping.carry
    )


def _settings_of_pretraining(settings: Settings, engine: Engine, step: int) -> dict[str, Any]:
    """Return the settings that must be the same for a run to go on as if never stopped.

    The number of steps may change as long as the learning rates of the next step stay the same.
    """
    values = {k: v for k, v in asdict(settings).items() if k not in _UNUSED_BY_PRETRAINING}
    del values["model"]  # compared as the architecture
    if are_puzzles(settings.data.trained):
        data, puzzles = settings.data, settings.puzzles
        values["data"] = {"trained": data.trained, "seed": data.seed}
        values["puzzles"] = [puzzles.num_trained, puzzles.symmetries]
    for name in _FREE_TO_CHANGE:
        del values["train"][name]
    progress = step / max(1, settings.train.num_steps)
    values["train"]["rate_of_next_step"] = lr_multiplier(step + 1, progress, settings.train)
    return {**values, "dtype": str(engine.dtype)}


def open_test_time_training(
    settings: Settings, run: Run, engine: Engine, tasks: Sequence[Task], weights: Weights
) -> TrainingRun:
    """Return the training of ``weights`` on the demonstrations of ``tasks``."""
    adapt, data = settings.adapt, settings.data
    identity = {
        "fingerprint": fingerprint(
            fingerprint_code(),
            str(engine.dtype),
            weights.digest,
            adapt.deciding(),
            fingerprint_visible(tasks),
            [data.views_per_task, data.seed, data.color_maps],
        )
    }
    dataset = make_adaptation_dataset(
        tasks, data.views_per_task, data.seed, weights.model.settings, data.color_maps
    )

    def start(train_settings: TrainSettings) -> Training:
        return start_adaptation(weights, dataset, train_settings, engine)  # type: ignore[arg-type]

    writer = _open_writer(run.adapted, dataset.index, weights.trained_on, settings, engine)
    return TrainingRun(
        "adapt",
        settings,
        run,
        engine,
        dataset.index,
        ExampleStream(dataset, adapt.seed),
        adapt,
        start,
        lambda step: identity,
        writer,
    )
