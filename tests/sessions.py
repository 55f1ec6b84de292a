"""Training runs that stop at any step and go on in another session, with their checkpoints."""

from conftest import SHORT_TRAINING, SMALL_MODEL, make_table

from augment.examples import ExampleStream
from pipeline.settings import CheckpointSettings
from solver.checkpoint import restore_training, save_checkpoint
from solver.checkpoint_files import latest_checkpoint
from solver.model import TRM
from solver.progress import TrainingProgress
from solver.train import start_training, train

DECIDING = {"train": {"lr": 1e-3}}


class Session:
    """A run that can be stopped after any step and gone on with by another session."""

    def __init__(
        self, folder, dataset, engine, model=SMALL_MODEL, settings=SHORT_TRAINING, **checkpoint
    ):
        self.folder, self.dataset, self.engine, self.settings = folder, dataset, engine, settings
        self.checkpoint = CheckpointSettings(**{"every": 3, **checkpoint})
        table = make_table(dataset, model.dim)
        self.training = start_training(TRM(model, 0), table, settings, engine)
        self.metrics = []

    def save(self):
        save_checkpoint(
            self.folder,
            self.training,
            self.dataset.index,
            self.dataset.trained_on,
            DECIDING,
            "test",
            self.engine.group,
            keep=self.checkpoint.keep,
            save_carry=self.checkpoint.carry,
        )

    def restore(self, deciding=DECIDING):
        restore_training(
            latest_checkpoint(self.folder),
            self.training,
            self.dataset.index,
            deciding,
            self.engine.group,
        )

    def go_on(self, stop_after=None):
        train(
            self.training,
            ExampleStream(self.dataset, 0),
            self.settings,
            self.engine,
            TrainingProgress(
                self.settings.num_steps,
                self.engine,
                should_stop=lambda: self.training.step == stop_after,
            ),
            on_step=lambda: None,
            on_metrics=lambda metrics: self.metrics.append(metrics.values),
            checkpoint_every=self.checkpoint.every,
            on_checkpoint=self.save,
        )
        return self
