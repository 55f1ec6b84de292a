"""Pretraining: it goes on where it stopped, plans its memory, and mends numbers out of range."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from augment.dataset import Dataset, ExampleStream
from pipeline.clock import Stopwatch
from pipeline.console import describe_engine, say, warn
from pipeline.metrics import TrainingLog
from pipeline.recipes import Settings
from pipeline.runs import Run
from pipeline.version import code_version
from solver.checkpoint import (
    checkpoint_step,
    latest_checkpoint,
    restore_training,
    save_checkpoint,
    set_broken_aside,
)
from solver.engine import Engine
from solver.memory import plan_training
from solver.model import TRM
from solver.optimizer import rate_factor
from solver.pace import Pace
from solver.puzzle_embedding import PuzzleTable
from solver.settings import TrainSettings
from solver.train import Training, start_training, train

_ATTEMPTS = 4  # at training that leaves the range of numbers, each at half the rates

_UNTOUCHED_BY_TRAINING = (
    "checkpoint",
    "adapt",
    "predict",
    "weights",
    "shipped_weights",
    "engine",
    "kaggle",
    "log",
)

_FREE_TO_CHANGE = ("num_steps", "time_limit_seconds", "log_every")


@dataclass(slots=True)
class Pretraining:
    """Training on a data set, taken up where an earlier call left it."""

    settings: Settings
    run: Run
    engine: Engine
    dataset: Dataset
    training: Training = field(init=False)
    _train: TrainSettings = field(init=False)
    """The settings of training, their rates halved after numbers that left their range."""

    def __post_init__(self) -> None:
        self._train = self.settings.train
        latest = self._begin()
        memory = plan_training(
            self.training.model,
            self.dataset.index.num_rows,
            ExampleStream(self.dataset, self._train.seed),
            self._train,
            self.engine,
            self.settings.engine.memory_gb,
        )
        if self.engine.world.leads:
            numbers = sum(p.numel() for p in self.training.model.parameters())
            say(
                f"pretrain: {numbers:,} parameters, {describe_engine(self.engine)}, "
                + (f"going on from {latest}" if latest else "from the start")
            )
            say(f"memory: {memory}")

    def go_on(self, clock: Stopwatch) -> None:
        """Train until the steps are done or the time is up.

        Numbers that leave their range send training back to the newest checkpoint, at half the
        learning rates. Raises ``FloatingPointError`` when that has not helped several times.
        """
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                self._train_until(clock)
                return
            except FloatingPointError as error:
                if not attempts_left:
                    raise
                self._train = self._train.at_half_the_rates()
                if self.engine.world.leads:
                    set_broken_aside(self.run.checkpoints, warn)
                self.engine.world.wait()
                self._begin()
                if self.engine.world.leads:
                    warn(
                        f"pretrain: {error}; on from step {self.training.step} at half the "
                        "learning rates"
                    )

    def _begin(self) -> str:
        """Start anew or from the newest checkpoint, whose path is returned."""
        architecture, seed = self.settings.model, self._train.seed
        table = PuzzleTable(self.dataset.index.num_rows, torch.zeros(architecture.dim))
        self.training = start_training(TRM(architecture, seed), table, self._train, self.engine)
        latest = latest_checkpoint(self.run.checkpoints)
        if latest is None:
            return ""
        deciding = _what_decides(self.settings, self.engine, checkpoint_step(latest))
        index, world = self.dataset.index, self.engine.world
        restore_training(latest, self.training, index, deciding, world)
        return str(latest)

    def _train_until(self, clock: Stopwatch) -> None:
        settings, training = self.settings, self.training
        pace = Pace(
            self._train.num_steps,
            self.engine,
            should_stop=clock.should_stop,
            checkpoint_seconds=settings.checkpoint.every_seconds,
        )
        with TrainingLog(
            "pretrain",
            self._train,
            settings.log,
            self.run,
            training.step,
            self.engine.world,
            lambda: clock.seconds_left,
            lambda: clock.seconds_left,
        ) as log:
            train(
                training,
                ExampleStream(self.dataset, self._train.seed),
                self._train,
                self.engine,
                pace,
                on_step=log.on_step,
                on_metrics=log.on_metrics,
                checkpoint_every=settings.checkpoint.every,
                on_checkpoint=self._save,
            )

    def _save(self) -> None:
        save_checkpoint(
            self.run.checkpoints,
            self.training,
            self.dataset.index,
            self.dataset.taught,
            _what_decides(self.settings, self.engine, self.training.step),
            code_version(),
            self.engine.world,
            keep=self.settings.checkpoint.keep,
            save_carry=self.settings.checkpoint.carry,
        )


def pretrain_model(settings: Settings, run: Run, engine: Engine, dataset: Dataset) -> None:
    """Train the model of ``settings`` until its steps are done or its time is up."""
    leads = engine.world.leads
    pretraining = Pretraining(settings, run, engine, dataset)
    if leads:
        run.record("pretrain", asdict(settings))
    with Stopwatch(settings.train.time_limit_seconds or math.inf) as clock:
        pretraining.go_on(clock)
    step, last = pretraining.training.step, settings.train.num_steps
    if leads:
        say(
            f"pretrain: step {step} of {last}, {latest_checkpoint(run.checkpoints)}"
            + ("" if step >= last else "; the same command goes on from here")
        )


def _what_decides(settings: Settings, engine: Engine, step: int) -> dict[str, Any]:
    """Return the settings that must be the same for a run to go on as if never stopped.

    The number of steps may change as long as the learning rates of the next step stay the same.
    """
    values = {k: v for k, v in asdict(settings).items() if k not in _UNTOUCHED_BY_TRAINING}
    del values["model"]  # compared as the architecture
    for name in _FREE_TO_CHANGE:
        del values["train"][name]
    values["train"]["rate_of_next_step"] = rate_factor(
        step + 1, step / max(1, settings.train.num_steps), settings.train
    )
    return {**values, "dtype": str(engine.dtype)}
