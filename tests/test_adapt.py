"""Test-time training starts at the rows of known tasks and at the mean row of others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from answering import random_weights, run
from conftest import make_dataset

from augment.examples import ExampleStream
from pipeline.settings import PredictSettings
from solver.adapt import make_adaptation_dataset, start_adaptation
from solver.progress import TrainingProgress
from solver.settings import AdaptSettings
from solver.train import train

SHORT_ADAPTATION = AdaptSettings(num_steps=8, global_batch=8, warmup_steps=2, log_every=2)


def adapted_to(weights, tasks, engine, settings=SHORT_ADAPTATION, views=3):
    dataset = make_adaptation_dataset(tasks, views, 0, weights.model.settings)
    training = start_adaptation(weights, dataset, settings, engine)
    stream, progress = (
        ExampleStream(dataset, settings.seed),
        TrainingProgress(settings.num_steps, engine.group),
    )
    for _ in train(training, stream, settings, engine, progress):
        pass
    model = training.ema.averaged(training.model)
    return replace(weights, model=model, table=training.table, index=dataset.index)


def test_unseen_tasks_are_trained_from_the_mean_row(small_tasks, engine):
    known = make_dataset(small_tasks[:6])
    weights = random_weights(known)
    before = {name: tensor.clone() for name, tensor in weights.model.state_dict().items()}
    unseen = small_tasks[6:]
    adapted = adapted_to(weights, unseen, engine)
    assert [adapted.index.find(task) is not None for task in unseen] == [True] * len(unseen)
    # Rows that no lane has met lie where all of them began; the others moved, and so did the trunk.
    rows = adapted.table.look_up(np.arange(adapted.index.num_rows))
    moved = ~(rows == weights.table.mean_row).all(1)
    assert not moved[0]
    assert moved.any()
    for name, tensor in weights.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not torch.equal(adapted.model.token_embedding, weights.model.token_embedding)
    predictions = run(known, unseen, engine, PredictSettings(num_views=2), adapted)
    assert {p.task_id for p in predictions} == {task.task_id for task in unseen}


@pytest.mark.parametrize("rows_per", ["view", "task"])
def test_known_tasks_go_on_from_their_rows(small_tasks, engine, rows_per):
    """Whatever other views there are now; without training, nothing else changes."""
    weights = random_weights(make_dataset(small_tasks[:6], rows_per, views=5))
    if rows_per == "view":  # the fourth view of the last task was never met
        weights.table._value_of_row[weights.index.starts[5] + 4] = 0
    chosen = small_tasks[4:8]
    adapted = adapted_to(weights, chosen, engine, replace(SHORT_ADAPTATION, num_steps=0), views=9)
    for name, tensor in weights.model.state_dict().items():
        assert torch.equal(tensor, adapted.model.state_dict()[name])
    kept = 0
    for task in chosen:
        at, before = adapted.index.find(task), weights.index.find(task)
        rows, codes = adapted.index.rows(np.full(10, at), np.arange(10))
        rows_now = adapted.table.look_up(rows)
        expected = weights.table.mean_row.expand(10, -1).clone()
        if before is not None:
            old_rows, old_codes = weights.index.rows(np.full(6, before), np.arange(6))
            old = dict(zip(old_codes.tolist(), weights.table.look_up(old_rows), strict=True))
            if rows_per == "view" and task is small_tasks[5]:
                del old[int(old_codes[3])]
            for n, code in enumerate(codes.tolist()):
                if rows_per == "task" or code in old:
                    expected[n] = old[0 if rows_per == "task" else code]
                    kept += 1
        assert torch.equal(rows_now, expected)
    assert kept == {"task": 20, "view": 11}[rows_per]
    trained = adapted.table.is_trained(np.arange(adapted.index.num_rows))
    assert trained.sum() == {"task": 2, "view": 11}[rows_per]
