"""HRM: its passes written out, its one-step gradient, and what its Q-learning aims at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import KINDS, make_table, seeded
from passes import examples_of, packed_examples
from torch import nn

from augment.boxes import full_boxes
from solver.carry import gather_state, start_carry
from solver.hrm import HRM
from solver.loader import Batch
from solver.model import Outcome
from solver.train import supervise


def written_out(model, x_ND, state, layout):
    """The supervision step of two cycles of three updates of z_L, by plain autograd."""
    z_H, z_L = state
    with torch.no_grad():
        for _ in range(3):
            z_L = model.L(z_L + (z_H + x_ND), layout)
        z_H = model.H(z_H + z_L, layout)
        for _ in range(2):
            z_L = model.L(z_L + (z_H + x_ND), layout)
    z_L = model.L(z_L + (z_H + x_ND), layout)
    return model.H(z_H + z_L, layout), z_L


def test_the_gradient_flows_through_the_last_update_of_each_state(small_dataset):
    model = HRM(KINDS["hrm"], 3)
    packed, x_ND, state = packed_examples(model, small_dataset)
    x_ND = x_ND.detach().requires_grad_()
    outcome = model(state, x_ND, packed)
    z_H, z_L = written_out(model, x_ND, state, model.layout(packed, x_ND.dtype))
    expected = model.output_head(z_H)
    torch.testing.assert_close(outcome.logits_MV, expected)
    torch.testing.assert_close(outcome.state, (z_H.detach(), z_L.detach()))
    weights = [*model.H.parameters(), *model.L.parameters(), x_ND]
    ours = torch.autograd.grad(outcome.logits_MV.square().sum(), weights)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.square().sum(), weights))


class Told(HRM):
    """A model whose halting logits are given, one pair for each step, and nothing else is."""

    told = ()

    def forward(self, state, x_ND, packed):
        halt_G, continue_G = self.told[0]
        self.told = self.told[1:]
        return Outcome(state, torch.zeros(1, 12), halt_G, continue_G)


def test_going_on_is_worth_the_best_of_the_next_step(small_dataset):
    """After the last step that is allowed, no other comes: there halting is all that is left."""
    model = Told(KINDS["hrm"])
    packed, x_ND, state = packed_examples(model, small_dataset)
    now = Outcome(state, torch.zeros(1, 12), torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]))
    model.told = [(torch.tensor([0.5, -1.0, 0.5]), torch.tensor([-1.0, 2.0, 4.0]))]
    continue_G, worth_G = model.look_ahead(now, x_ND, packed, np.array([False, False, True]))
    assert continue_G.tolist() == [1.0, 2.0, 3.0]
    torch.testing.assert_close(worth_G, torch.tensor([0.5, 2.0, 0.5]).sigmoid())


def test_it_halts_where_being_right_is_worth_more_than_going_on():
    outcome = Outcome((), torch.zeros(1, 12), torch.tensor([-2.0, 1.0]), torch.tensor([-3.0, 2.0]))
    assert outcome.halts.tolist() == [True, False]
    assert outcome._replace(continue_G=None).halts.tolist() == [False, True]


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_step_of_training_learns_both_logits(small_dataset, engine, steps_before):
    """The third step is the last: its target is the next step's halt logit, there is no other."""
    model = HRM(KINDS["hrm"], 3)
    nn.init.normal_(model.halt_head.weight, generator=seeded())
    model.halt_head.bias.data.zero_()
    table, examples = make_table(small_dataset), examples_of(small_dataset, 3)
    examples = replace(examples, boxes=full_boxes(3, 10))
    carry = start_carry(model, 3, engine.device, engine.dtype)
    batch = Batch(examples, np.zeros(3, dtype=np.int64))
    for _ in range(steps_before):
        outcome = supervise(model, table, carry, batch, engine)
        carry = replace(outcome.carry, halted_B=np.zeros(3, dtype=bool))
    outcome = supervise(model, table, carry, batch, engine)

    packed, x_ND, _ = packed_examples(model, small_dataset, examples, table)
    with torch.no_grad():
        now = model(gather_state(carry, model, packed), x_ND, packed)
        following = model(now.state, x_ND, packed)
    best_G = torch.maximum(following.halt_G, following.continue_G)
    target_G = (following.halt_G if steps_before == 2 else best_G).sigmoid()
    exact_G = outcome.losses.exact.float()
    expected = F.binary_cross_entropy_with_logits(now.halt_G, exact_G, reduction="none")
    expected += F.binary_cross_entropy_with_logits(now.continue_G, target_G, reduction="none")
    torch.testing.assert_close(outcome.losses.halt, expected)
    assert torch.equal(
        outcome.losses.total, (outcome.losses.tokens + 0.5 * outcome.losses.halt).sum()
    )


def test_where_one_step_is_all_nothing_is_learned_of_going_on(small_dataset):
    model = HRM(replace(KINDS["hrm"], max_supervision_steps=1))
    packed, x_ND, state = packed_examples(model, small_dataset)
    outcome = model(state, x_ND, packed)
    assert outcome.continue_G is None
    assert model.look_ahead(outcome, x_ND, packed, np.ones(3, dtype=bool)) is None
