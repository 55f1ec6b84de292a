"""The plain transformer: one pass a supervision step, whose state is carried on, or not at all."""

from dataclasses import replace

import numpy as np
import torch
from conftest import KINDS, SHORT_TRAINING
from passes import fit, packed_examples

from solver.transformer import Transformer


def test_a_supervision_step_is_one_pass_over_question_and_state(small_dataset):
    model = Transformer(KINDS["transformer"])
    packed, x_ND, state = packed_examples(model, small_dataset)
    (z,) = state
    for _ in range(2):
        state, logits_MV, *_ = model(state, x_ND, packed)
        z = model.net(z + x_ND, model.layout(packed, x_ND.dtype))
        torch.testing.assert_close(logits_MV, model.output_head(z))
        torch.testing.assert_close(state, (z.detach(),))


def test_heads_may_be_narrower_than_the_state_together():
    """Published: 12 heads of 42 over a width of 512."""
    attention = Transformer(KINDS["transformer"]).net.layers[0].attention
    assert attention.qkv.weight.shape == (3 * 3 * 10, 32)
    assert attention.output.weight.shape == (32, 3 * 10)


def test_with_one_supervision_step_it_predicts_directly(small_dataset, engine):
    """No lane goes on from a state."""
    model = replace(KINDS["transformer"], max_supervision_steps=1)
    training, _ = fit(small_dataset, SHORT_TRAINING, engine, model)
    assert training.carry.halted_B.all()
    assert np.array_equal(training.carry.steps_B, np.ones(8))
