"""The model: size, start, what tells views apart, and where gradients flow."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import BOX_MODEL, SMALL_MODEL, seeded
from passes import box_cells, examples_of, pack_canvases, packed_examples
from torch import nn

from augment.examples import view_features
from solver.kinds import new_model
from solver.layers import truncated_normal_
from solver.packing import pack


def test_start_of_the_weights():
    tensor = truncated_normal_(torch.empty(200_000), 0.5, torch.Generator().manual_seed(0))
    assert tensor.std().item() == pytest.approx(0.5, rel=0.01)
    assert tensor.abs().max().item() == pytest.approx(2.274 * 0.5, rel=0.01)
    model = new_model(SMALL_MODEL)
    assert torch.equal(model.halt_head.bias, torch.full((2,), -5.0))
    assert not model.halt_head.weight.any()
    state = model.start(7, torch.float32)
    assert torch.equal(state[0][0], state[0][5])


def test_no_gradient_reaches_the_state_that_a_step_starts_from():
    """The gradient flows through the last cycle only; the states returned are detached."""
    model = new_model(SMALL_MODEL, 3)
    packed = pack_canvases(model, np.full((1, 100), 2, dtype=np.uint8))
    x_ND = model.embed(packed, torch.ones(1, 32))
    state = tuple(t.requires_grad_() for t in model.start(len(x_ND), torch.float32))
    following, logits_MV, *_ = model(state, x_ND, packed)
    of_state = torch.autograd.grad(logits_MV.sum(), state, retain_graph=True, allow_unused=True)
    assert of_state == (None, None)
    (of_input,) = torch.autograd.grad(logits_MV.sum(), x_ND)
    assert of_input.any()
    assert not any(tensor.requires_grad for tensor in following)


def test_rows_are_told_apart_by_view_only_with_rows_per_task():
    rows = torch.ones(2, 32)
    for rows_per in ("view", "task"):
        model = new_model(replace(SMALL_MODEL, rows_per=rows_per))
        packed = pack_canvases(model, np.full((2, 100), 2, dtype=np.uint8))
        packed.views_GF[1, 0] = 3
        x = model.embed(packed, rows)[: packed.num_positions].view(2, 116, 32)
        assert torch.equal(x[0], x[1]) == (rows_per == "view")
        assert torch.equal(x[0, 2:], x[1, 2:])


def test_row_and_view_are_added_to_every_cell_of_their_example(small_dataset):
    settings = replace(BOX_MODEL, rows_per="task", conditioning="cells", prefix_length=0)
    model = new_model(settings)
    nn.init.normal_(model.view_embedding, generator=seeded())
    examples = examples_of(small_dataset)
    members = np.arange(len(examples.rows))
    packed = pack(settings, torch.device("cpu"), examples, members)
    rows_GD = torch.randn(len(members), 32, generator=seeded())
    x_ND = model.embed(packed, rows_GD)[: packed.num_positions] / math.sqrt(32)
    features_GF = view_features(examples.codes)
    for number, box in enumerate(examples.boxes):
        tokens = torch.from_numpy(examples.inputs[number, box_cells(box, 10)]).long()
        dihedral, *colors = features_GF[number].tolist()
        of_view = model.view_embedding[dihedral].clone()
        for place, color in enumerate(colors):
            of_view += model.view_embedding[8 + 10 * place + color]
        expected = model.token_embedding[tokens] + rows_GD[number] + of_view
        mine = x_ND[packed.owners_N[: len(x_ND)] == number]
        torch.testing.assert_close(mine, expected)


def test_a_model_told_the_dihedral_only_does_not_see_colors():
    settings = replace(SMALL_MODEL, rows_per="task", told="dihedral")
    model = new_model(settings)
    assert model.view_embedding.shape == (8, 32)
    packed = pack_canvases(model, np.full((3, 100), 2, dtype=np.uint8))
    packed.views_GF[1, 4] = 7
    packed.views_GF[2, 0] = 3
    x = model.embed(packed, torch.ones(3, 32))[: packed.num_positions].view(3, 116, 32)
    assert torch.equal(x[0], x[1])
    assert not torch.equal(x[0], x[2])


def test_halting_has_no_hand_in_a_trunk_that_takes_one_supervision_step(small_dataset):
    for steps, expected in ((1, False), (2, True)):
        model = new_model(replace(SMALL_MODEL, max_supervision_steps=steps))
        nn.init.normal_(model.halt_head.weight, generator=seeded())
        packed, x_ND, state = packed_examples(model, small_dataset)
        halt_G = model(state, x_ND, packed)[2]
        parameters = (model.halt_head.weight, model.net.layers[0].mlp.down.weight)
        of_head, of_trunk = torch.autograd.grad(halt_G.sum(), parameters, allow_unused=True)
        assert of_head.any()
        assert (of_trunk is not None) == expected


def test_dropout_drops_in_training_only(small_dataset):
    plain, dropping = new_model(SMALL_MODEL), new_model(replace(SMALL_MODEL, dropout=0.5))
    packed, x_ND, state = packed_examples(plain, small_dataset)
    expected = plain(state, x_ND, packed)[1]
    torch.testing.assert_close(dropping.eval()(state, x_ND, packed)[1], expected)
    torch.manual_seed(0)
    changed = dropping.train()(state, x_ND, packed)[1]
    assert not torch.allclose(changed, expected)
