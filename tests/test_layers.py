"""Layers: rotary positions, norm, and how weights start."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import BOX_MODEL, SMALL_MODEL, seeded
from passes import examples_of

from solver.layers import (
    Convolution,
    Layout,
    Rotary,
    _apart,
    _sum_by_product,
    _sum_one_by_one,
    apply_rotary,
    rms_norm,
)  # fmt: skip
from solver.packing import pack
from solver.settings import ModelSettings

GRID = replace(SMALL_MODEL, rotary="grid", rotary_base=100.0)


def scores(settings: ModelSettings, cells: list[tuple[int, int]]) -> torch.Tensor:
    """The products of one query and one key when they stand at the cells (row, column)."""
    width = settings.dim // settings.num_heads
    q, k = torch.randn(2, 1, 1, width, generator=seeded())
    side, prefix = settings.canvas_side, settings.prefix_length
    at = torch.tensor([prefix + row * side + column for row, column in cells])
    layout = Layout(*Rotary(settings)(at), None, None)
    q, k = (apply_rotary(x.expand(len(cells), 1, width), layout)[:, 0] for x in (q, k))
    return q @ k.T


def test_positions_on_the_grid_count_rows_and_columns():
    """A product depends on how far apart two cells lie in either direction, and on no more."""
    products = scores(GRID, [(0, 0), (2, 3), (4, 1), (6, 4), (2, 0), (0, 3)])
    assert products[0, 1].item() == pytest.approx(products[2, 3].item(), abs=1e-5)
    assert products[0, 4].item() == pytest.approx(products[5, 1].item(), abs=1e-5)
    others = {round(value, 4) for value in products[0].tolist()}
    assert len(others) == 6
    # Flat positions cannot tell the end of a row from the beginning of the next one.
    cells = [(0, 9), (1, 0), (3, 4), (3, 5)]
    flat, grid = scores(SMALL_MODEL, cells), scores(GRID, cells)
    assert flat[0, 1].item() == pytest.approx(flat[2, 3].item(), abs=1e-5)
    assert grid[0, 1].item() != pytest.approx(grid[2, 3].item(), abs=1e-2)


def test_every_place_has_an_angle_of_its_own():
    rotary = Rotary(GRID)
    turns = torch.cat([rotary.cos_MK, rotary.sin_MK], dim=1)
    assert len(torch.unique(turns.round(decimals=5), dim=0)) == GRID.length == 116


def test_rms_norm_is_computed_in_float32():
    x = torch.full((1, 1000), 300.0, dtype=torch.float16)  # its sum of squares is no float16
    assert torch.equal(rms_norm(x, 1e-5), torch.ones_like(x))


def test_the_convolution_equals_torch_on_each_box_alone(small_dataset):
    """Values and both gradients; the prefix sees itself only."""
    settings = replace(BOX_MODEL, convolution=True)
    examples = examples_of(small_dataset)
    packed = pack(settings, torch.device("cpu"), examples, np.arange(len(examples.rows)))
    convolution = Convolution(32)
    x_ND = torch.randn(len(packed.sources_NC), 32, generator=seeded())
    assert torch.equal(convolution(x_ND, packed.neighbors_9N), x_ND)  # at the start

    torch.nn.init.normal_(convolution.weight, generator=seeded(2))
    x_ND.requires_grad_()
    toward_ND = torch.randn(x_ND.shape, generator=seeded(3))
    parameters = (x_ND, convolution.weight)
    mixed = convolution(x_ND, packed.neighbors_9N)
    gradients = torch.autograd.grad((mixed * toward_ND).sum(), parameters)

    kernel = convolution.weight.T.reshape(32, 1, 3, 3)
    expected = x_ND * convolution.weight[4]
    for number, (_, _, height, width) in enumerate(examples.boxes.tolist()):
        start = int(packed.bounds_E[number]) + settings.prefix_length
        cells = slice(start, start + height * width)
        plane = x_ND[cells].T.reshape(1, 32, height, width)
        convolved = torch.nn.functional.conv2d(plane, kernel, padding=1, groups=32)
        expected = expected.index_put(
            (torch.arange(cells.start, cells.stop),), convolved.flatten(2)[0].T
        )
    torch.testing.assert_close(mixed, expected)
    by_torch = torch.autograd.grad((expected * toward_ND).sum(), parameters)
    for ours, theirs in zip(gradients, by_torch, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_sums_of_a_gpu_are_those_of_a_cpu():
    x_ND, gradient_ND = torch.randn(2, 50, 8, generator=seeded(0))
    neighbors_9N = torch.randint(0, 51, (9, 50), generator=seeded(1), dtype=torch.int32)
    arguments = (x_ND, gradient_ND, neighbors_9N)
    assert torch.allclose(_sum_by_product(*arguments), _sum_one_by_one(*arguments), atol=1e-5)
    assert torch.equal(_apart(x_ND), x_ND)
