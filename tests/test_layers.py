"""Layers: rotary positions, norm, and how weights start."""

from dataclasses import replace

import pytest
import torch
from conftest import SMALL_MODEL, seeded

from solver.layers import Layout, Rotary, apply_rotary, rms_norm
from solver.settings import ModelSettings

GRID = replace(SMALL_MODEL, rotary="grid", rotary_base=100.0)


def scores(settings: ModelSettings, cells: list[tuple[int, int]]) -> torch.Tensor:
    """The products of one query and one key when they stand at the cells (row, column)."""
    width = settings.dim // settings.num_heads
    q, k = torch.randn(2, 1, 1, width, generator=seeded())
    side, prefix = settings.canvas_side, settings.prefix_length
    at = torch.tensor([prefix + row * side + column for row, column in cells])
    layout = Layout(*Rotary(settings)(at), None)
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
