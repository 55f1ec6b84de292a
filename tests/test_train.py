"""Training learns small tasks in every dtype, repeats itself, and stops where a loss is NaN."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHORT_TRAINING, SMALL_MODEL, make_dataset, make_table
from passes import fit

from augment.examples import ExampleStream
from solver.engine import Engine, open_engine
from solver.kinds import new_model
from solver.loader import batches
from solver.progress import TrainingProgress
from solver.settings import EngineSettings, TrainSettings
from solver.train import start_training, take_metrics, train, train_step


@pytest.mark.parametrize("variant", ["attention", "mlp"])
@pytest.mark.parametrize("rows_per", ["view", "task"])
def test_overfits_two_tasks(arc1, engine, variant, rows_per):
    """A small model learns all pairs of two 3x3 tasks by heart, and halts when it is right."""
    tasks = [task for task in arc1 if task.task_id in ("d037b0a7", "3c9b0459")]
    dataset = make_dataset(tasks, rows_per, views=0, canvas_side=3)
    settings = TrainSettings(num_steps=350, global_batch=8, lr=2e-3, warmup_steps=10, log_every=50)
    model = replace(SMALL_MODEL, canvas_side=3, num_cycles=1, variant=variant, rows_per=rows_per)
    _, reported = fit(dataset, settings, engine, model)
    assert reported[-1].values["exact_accuracy"] > 0.9
    assert reported[-1].values["loss"] < 0.3 * reported[0].values["loss"]
    assert reported[-1].values["supervision_steps"] < model.max_supervision_steps


def test_rows_and_views_added_to_cells_teach_two_tasks_too(arc1, engine):
    """Without a prefix, told of dihedrals only."""
    tasks = [task for task in arc1 if task.task_id in ("d037b0a7", "3c9b0459")]
    dataset = make_dataset(tasks, "task", views=0, canvas_side=3)
    settings = TrainSettings(num_steps=350, global_batch=8, lr=2e-3, warmup_steps=10, log_every=50)
    model = replace(
        SMALL_MODEL,
        canvas_side=3,
        num_cycles=1,
        rows_per="task",
        conditioning="cells",
        prefix_length=0,
        told="dihedral",
        output="softmax",
    )
    _, reported = fit(dataset, settings, engine, model)
    assert reported[-1].values["exact_accuracy"] > 0.9


def test_positions_of_four_cells_learn_two_tasks_too(arc1, engine):
    tasks = [task for task in arc1 if task.task_id in ("d037b0a7", "3c9b0459")]
    dataset = make_dataset(tasks, "task", views=0, canvas_side=4)
    settings = TrainSettings(num_steps=700, global_batch=8, lr=2e-3, warmup_steps=10, log_every=50)
    model = replace(SMALL_MODEL, canvas_side=4, patch=2, num_cycles=1, rows_per="task")
    _, reported = fit(dataset, settings, engine, model)
    assert reported[-1].values["exact_accuracy"] > 0.9


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_trains_in_every_dtype(small_dataset, dtype):
    engine = open_engine(EngineSettings(device="cpu", dtype=dtype), print)
    training, reported = fit(small_dataset, SHORT_TRAINING, engine)
    assert training.carry.state[0].dtype == getattr(torch, dtype)
    assert all(p.dtype == torch.float32 for p in training.model.parameters())
    assert all(math.isfinite(metrics.values["loss"]) for metrics in reported)


@pytest.mark.parametrize(("share", "num_steps"), [(1.0, 8), (0.5, 4), (0.5, 5)])
def test_rows_alone_are_trained_for_a_share_of_the_run(small_dataset, engine, share, num_steps):
    """All of it, the first half, and the first half with a step more."""
    settings = replace(SHORT_TRAINING, rows_only_share=share)
    dataset, table = small_dataset, make_table(small_dataset)
    training = start_training(new_model(SMALL_MODEL), table, settings, engine)
    until = num_steps / settings.num_steps
    progress = TrainingProgress(settings.num_steps, engine.group, until=until)
    steps = list(train(training, ExampleStream(dataset, 0), settings, engine, progress))
    assert steps == list(range(1, num_steps + 1))
    present = dict(training.model.named_parameters())
    same = [torch.equal(p, present[name]) for name, p in new_model(SMALL_MODEL).named_parameters()]
    assert all(same) == (num_steps != 5)
    assert training.table.values.any()


def test_a_loss_that_is_not_finite_stops_the_run(small_dataset, engine):
    with pytest.raises(FloatingPointError, match="not finite at step"):
        fit(small_dataset, replace(SHORT_TRAINING, rows_lr=1e9, lr=1e9), engine)


def test_metrics_of_steps_without_a_halt_are_nan(small_dataset, engine):
    training, _ = fit(small_dataset, replace(SHORT_TRAINING, num_steps=1), engine)
    values = take_metrics(training, SHORT_TRAINING, engine.group).values
    assert math.isnan(values["exact_accuracy"])
    assert math.isfinite(values["loss"])


def test_dropout_is_a_function_of_seed_and_step(small_dataset, engine: Engine):
    """Whatever was drawn before it."""
    model, settings = replace(SMALL_MODEL, dropout=0.5), replace(SHORT_TRAINING, lr=1e-3)
    heads = []
    for seed, drawn in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(drawn)
        ours = replace(settings, seed=seed)
        training = start_training(new_model(model), make_table(small_dataset), ours, engine)
        upcoming = batches(ExampleStream(small_dataset, 0), settings, model, engine.group, 0)
        train_step(training, next(upcoming), ours, engine)
        heads.append(training.model.output_head.weight.detach())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_rows_follow_the_schedule(small_dataset, engine: Engine):
    settings = replace(SHORT_TRAINING, schedule="wsd", decay_share=1.0, warmup_steps=0)
    settings = replace(settings, num_steps=4, rows_lr=1.0, rows_weight_decay=0.0)
    training = start_training(new_model(SMALL_MODEL), make_table(small_dataset), settings, engine)
    upcoming = batches(ExampleStream(small_dataset, 0), settings, SMALL_MODEL, engine.group, 0)
    sizes = []
    for step in range(3):
        training.progress = step / settings.num_steps
        before = training.table.look_up(np.arange(training.table.num_rows))
        train_step(training, next(upcoming), settings, engine)
        after = training.table.look_up(np.arange(training.table.num_rows))
        sizes.append((after - before).abs().max().item())
    assert sizes == pytest.approx([1.0, 0.75, 0.5])
