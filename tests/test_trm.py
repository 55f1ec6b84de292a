"""TRM: its passes written out, and the cycles that the gradient flows through."""

from dataclasses import replace

import pytest
import torch
from conftest import SMALL_MODEL
from passes import packed_examples

from solver.trm import TRM


def test_a_latent_recursion_updates_z_and_then_y(small_dataset):
    model = TRM(replace(SMALL_MODEL, num_latent_steps=2))
    packed, x_ND, state = packed_examples(model, small_dataset)
    layout = model.layout(packed, x_ND.dtype)
    y, z = state
    z = model.net(x_ND + y + z, layout)
    z = model.net(x_ND + y + z, layout)
    y = model.net(y + z, layout)
    torch.testing.assert_close(model.latent_recursion(x_ND, state, layout), (y, z))


@pytest.mark.parametrize("gradient_cycles", [1, 2, 3])
def test_the_gradient_flows_through_the_last_cycles(small_dataset, gradient_cycles):
    settings = replace(SMALL_MODEL, num_cycles=3, gradient_cycles=gradient_cycles)
    model = TRM(settings)
    packed, x_ND, state = packed_examples(model, small_dataset)
    before = model(state, x_ND, packed)[1]
    (gradient,) = torch.autograd.grad(before.square().sum(), model.net.layers[0].mlp.down.weight)
    for cycle in range(3):
        if cycle == 3 - gradient_cycles:
            state = tuple(tensor.detach() for tensor in state)
        state = model.latent_recursion(x_ND, state, model.layout(packed, x_ND.dtype))
    loss = model.output_head(state[0]).square().sum()
    (expected,) = torch.autograd.grad(loss, model.net.layers[0].mlp.down.weight)
    torch.testing.assert_close(gradient, expected)
