"""Test-time training starts at the rows of known tasks and at the mean row of others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from answering import random_weights, run
from conftest import BOX_MODEL, make_dataset
from passes import examples_of

from augment.errors import InputError
from augment.examples import ExampleStream
from pipeline.settings import PredictSettings
from solver.adapt import make_adaptation_dataset, start_adaptation, start_from_weights
from solver.carry import start_carry
from solver.loader import Batch
from solver.progress import TrainingProgress
from solver.settings import AdaptSettings
from solver.train import supervise, train

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


def test_a_canvas_grows_without_changing_what_is_computed(small_tasks, engine):
    """With boxes on a grid: the same examples give the same losses on the larger canvas."""
    grid = replace(BOX_MODEL, rotary="grid", rotary_base=100.0, max_supervision_steps=1)
    losses = []
    for side in (10, 14):
        dataset = make_dataset(small_tasks[:6], canvas_side=side)
        weights = random_weights(make_dataset(small_tasks[:6]), grid)
        model = replace(grid, canvas_side=side)
        training = start_from_weights(weights, dataset.index, model, SHORT_ADAPTATION, engine)
        examples = examples_of(dataset, start=0)
        first = np.flatnonzero((examples.boxes[:, :2] == 0).all(1))
        examples = examples.take(first[:3])
        batch = Batch(examples, np.zeros(len(examples.rows), dtype=np.int64))
        carry = start_carry(training.model, len(examples.rows), engine.device, engine.dtype)
        outcome = supervise(training.model, training.table, carry, batch, engine)
        losses.append(outcome.losses.tokens.detach())
    torch.testing.assert_close(*losses, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 64}, r"model\.dim is 32, here it is 64"),
        ({"canvas_side": 14}, r"model\.canvas_side is 10, here it is 14"),  # positions are flat
        ({"rotary": "grid"}, r"model\.rotary is flat, here it is grid"),
    ],
)
def test_training_does_not_go_on_from_another_architecture(small_tasks, engine, changes, message):
    weights, dataset = random_weights(make_dataset(small_tasks)), make_dataset(small_tasks)
    model = replace(weights.model.settings, **changes)
    with pytest.raises(InputError, match=message):
        start_from_weights(weights, dataset.index, model, SHORT_ADAPTATION, engine)
