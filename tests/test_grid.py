"""Grids: checked cell by cell, told apart by their keys, and stored many in an array."""

import numpy as np
import pytest

from augment.errors import InputError
from augment.grid import GridStore, check_grid, grid_key, shorten


def test_a_grid_of_json_becomes_an_array_of_its_cells():
    grid = check_grid([[1, 2, 3], [4, 5, 6]], "here")
    assert grid.dtype == np.uint8
    assert grid.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert grid.flags.writeable
    assert check_grid([[0] * 30] * 30, "here").shape == (30, 30)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([], "the grid is empty"),
        ([[1], [1, 2]], "row 1 has 2 cells, row 0 has 1"),
        ([[1] * 31], "the grid is 1x31"),
        ([[0, 0], [0, 10]], r"cell \(1, 1\) is 10"),
        ([[True]], r"cell \(0, 0\) is True"),
    ],
)
def test_what_is_no_grid_is_refused_where_it_stands(raw, reason):
    with pytest.raises(InputError, match=f"^here: {reason}"):
        check_grid(raw, "here")


def test_keys_tell_shapes_and_cells_apart():
    row, column = np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8)
    keys = {grid_key(grid) for grid in (row, column, row + 1)}
    assert len(keys) == 3
    assert grid_key(row) == grid_key(np.zeros((1, 2), np.uint8))


def test_a_store_gives_back_its_grids(arc1):
    grids = arc1[0].visible_grids
    store = GridStore.of(grids)
    assert [grid.tolist() for grid in store] == [grid.tolist() for grid in grids]
    assert store.sizes(np.array([1, 0])).tolist() == [list(grids[1].shape), list(grids[0].shape)]


def test_long_values_are_cut_in_errors():
    assert shorten("a") == "'a'"
    assert shorten("a" * 100) == "'" + "a" * 59 + "..."


def test_a_value_is_cut_before_it_is_rendered():
    """However deep, and of many parts only the first."""
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert shorten(deep) == "[[[[...]]]]"
    assert shorten({"a": deep}) == "{'a': [[[...]]]}"

    rendered = []

    class Cell:
        def __repr__(self):
            rendered.append(self)
            return "0"

    assert shorten([Cell()] * 1_000_000) == f"[{19 * '0, '}0,..."
    assert shorten([[Cell()] * 1000] * 1000).startswith("[[0, 0, ")
    assert len(rendered) < 1000
    with pytest.raises(InputError, match=r"the grid is 1x10000000, larger"):
        check_grid([[0] * 10_000_000], "here")
