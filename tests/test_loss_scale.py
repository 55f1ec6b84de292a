"""Training in float16 scales its loss, and skips steps that leave its range."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import BOX_MODEL, SHORT_TRAINING, make_table
from passes import examples_of

from augment.examples import ExampleStream
from solver.carry import start_carry
from solver.kinds import new_model
from solver.loader import Batch, batches
from solver.loss_scale import LossScale
from solver.train import start_training, supervise, train_step


def test_steps_out_of_the_range_of_float16_count_for_nothing(small_dataset, engine):
    """The scale of the loss halves, the lanes start afresh, and training goes on."""
    half = replace(engine, dtype=torch.float16)
    settings = replace(SHORT_TRAINING, num_steps=4)
    training = start_training(new_model(BOX_MODEL), make_table(small_dataset), settings, half)
    training.scale.factor = 2.0**40
    before = [p.detach().clone() for p in training.model.parameters()]
    stream = ExampleStream(small_dataset, 0)
    first, *others = batches(stream, settings, BOX_MODEL, half.group, 0)
    train_step(training, first, settings, half)
    assert training.scale.factor == 2.0**39
    assert all(map(torch.equal, before, training.model.parameters()))
    assert not training.table.values.any()
    assert training.carry.halted_B.all()
    training.scale.factor = 2.0**10
    for batch in others:
        train_step(training, batch, settings, half)
    assert training.step == 4
    assert not any(map(torch.equal, before, training.model.parameters()))
    training.scale.factor = 1.0
    with pytest.raises(FloatingPointError, match="float16 is too narrow"):
        training.scale.update(False)


def test_float16_gradients_point_where_float32_ones_do(small_dataset, engine):
    """Without the scale most of a late row's gradient is lost to zero."""
    examples = examples_of(small_dataset, 32)
    gradients = []
    for dtype in (torch.float32, torch.float16):
        model = new_model(BOX_MODEL, 3)
        chosen = replace(engine, dtype=dtype)
        carry = start_carry(model, 32, engine.device, dtype)
        table = make_table(small_dataset)
        scale = LossScale(dtype).factor
        batch = Batch(examples, np.full(32, 99))
        outcome = supervise(model, table, carry, batch, chosen, scale)
        gradients.append(outcome.row_gradients_BD)
    same = gradients[0].sign() == gradients[1].sign()
    assert same.float().mean() > 0.97


def test_loss_scale_doubles_after_many_good_steps():
    scale = LossScale(torch.float16)
    first = scale.factor
    assert all(scale.update(True) for _ in range(1000))
    assert scale.factor == 2 * first
    assert LossScale(torch.bfloat16).factor == 1
