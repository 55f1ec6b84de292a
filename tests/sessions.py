"""Training runs that stop at any step and go on in another session, with their checkpoints."""

from dataclasses import fields

import numpy as np
import torch
from conftest import SHORT_TRAINING, SMALL_MODEL, make_table

from augment.examples import ExampleStream
from pipeline.settings import CheckpointSettings
from solver.checkpoint import CheckpointWriter, restore_training
from solver.checkpoint_files import latest_checkpoint
from solver.kinds import new_model
from solver.optimizer import optimizer_tensors
from solver.progress import TrainingProgress
from solver.train import require_finite, start_training, take_metrics, train

DECIDING = {"train": {"lr": 1e-3}}


class Session:
    """A run that can be stopped after any step and gone on with by another session."""

    def __init__(
        self, folder, dataset, engine, model=SMALL_MODEL, settings=SHORT_TRAINING, **checkpoint
    ):
        self.folder, self.dataset, self.engine, self.settings = folder, dataset, engine, settings
        self.checkpoint = CheckpointSettings(**{"every": 3, **checkpoint})
        table = make_table(dataset, model.dim)
        self.training = start_training(new_model(model, 0), table, settings, engine)
        self.metrics = []

    def save(self):
        writer = CheckpointWriter(
            self.folder,
            self.dataset.index,
            self.dataset.trained_on,
            "test",
            self.engine.group,
            self.checkpoint.keep,
            self.checkpoint.carry,
        )
        require_finite(self.training, self.engine.group)
        writer.save(self.training, DECIDING)

    def restore(self, deciding=DECIDING):
        restore_training(
            latest_checkpoint(self.folder),
            self.training,
            self.dataset.index,
            deciding,
            self.engine.group,
        )

    def train(self, stop_after=None):
        training, settings, group = self.training, self.settings, self.engine.group
        progress = TrainingProgress(settings.num_steps, group)
        stream, saved_step = ExampleStream(self.dataset, 0), training.step
        for step in train(training, stream, settings, self.engine, progress):
            if step % settings.log_every == 0:
                self.metrics.append(take_metrics(training, settings, group).values)
            if step % self.checkpoint.every == 0:
                self.save()
                saved_step = step
            if step == stop_after:
                break
        if saved_step != training.step:
            self.save()
        return self


def everything(session):
    """All that a run is, as one list of tensors."""
    training = session.training
    carry = training.carry
    examples = (getattr(carry.examples, field.name) for field in fields(carry.examples))
    return [
        *training.model.state_dict().values(),
        *training.ema.average.values(),
        training.table.look_up(np.arange(training.table.num_rows)),
        *optimizer_tensors(training.optimizer, training.model).values(),
        *carry.state,
        *map(torch.from_numpy, (*examples, carry.steps_B, carry.halted_B)),
    ]
