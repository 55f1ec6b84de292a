"""The stage pretrain: train the model of a recipe on its data set; the same command goes on."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from augment.dataset import Dataset
from augment.errors import InputError
from augment.puzzle_set import PuzzleSet
from augment.task import Task
from pipeline.console import say, say_anywhere
from pipeline.deadline import Deadline, Leg
from pipeline.inputs import choose_evaluated_tasks
from pipeline.puzzle_sources import load_puzzles
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.stages.build import keep_dataset, load_dataset
from pipeline.training_run import open_pretraining
from solver.checkpoint_files import checkpoint_step, latest_checkpoint
from solver.engine import open_engine
from solver.process_group import leave_process_group


def pretrain(settings: Settings, run: Run) -> None:
    """Train until the steps of ``settings`` are done or their time is up.

    Raises ``FloatingPointError`` where numbers leave their range again and again, and
    :class:`InputError` where the last step could not be kept.
    """
    with run.lock():
        engine = open_engine(settings.engine, say_anywhere)
        group, num_steps = engine.group, settings.train.num_steps
        group.share(settings.train.global_batch)  # an impossible share is an error before any work
        dataset = keep_dataset(settings, run) if group.is_rank0 else None
        group.barrier()
        dataset = dataset or load_dataset(settings, run)
        evaluated = _choose_evaluated(settings, dataset) if settings.train.eval_every else ()
        training_run = open_pretraining(settings, run, engine, dataset, evaluated)
        parameters = sum(p.numel() for p in training_run.training.model.parameters())
        resumed = training_run.resumed_from
        beginning = f"from {settings.train.start_from or 'the start'}"
        if resumed:
            beginning = f"going on from {resumed}"
        say(f"pretrain: {parameters:,} parameters, {engine.describe()}, {beginning}")
        training_run.plan_memory()
        if group.is_rank0:
            run.record("pretrain", asdict(settings))
        with Deadline(settings.train.time_limit_seconds or math.inf) as deadline:
            training_run.train(Leg(deadline))
        step, latest = training_run.step, latest_checkpoint(run.checkpoints)
        say(
            f"pretrain: step {step} of {num_steps}, {latest}"
            + ("" if step >= num_steps else "; the same command goes on from here")
        )
        best = latest_checkpoint(run.best)
        if best is not None:
            command = "evaluate" if isinstance(dataset, PuzzleSet) else "predict"
            say(f'pretrain: the best evaluation was that of {best}: {command} SET="weights={best}"')
        leave_process_group()
    if step and (latest is None or checkpoint_step(latest) < step):
        raise InputError(f"{run.checkpoints}: step {step} could not be kept, see the warnings")


def _choose_evaluated(
    settings: Settings, dataset: Dataset | PuzzleSet
) -> Sequence[Task] | PuzzleSet:
    if isinstance(dataset, PuzzleSet):
        return load_puzzles(settings, "evaluated")
    return choose_evaluated_tasks(settings.data)
