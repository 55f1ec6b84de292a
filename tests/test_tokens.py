"""Tokens written and read by compiled loops equal those of one grid at a time."""

import numpy as np
import pytest
from grid_oracle import decode_grid, encode_grid, grids, views
from hypothesis import given
from hypothesis import strategies as st

from augment.grid import GridStore
from augment.tokens import END, FIRST_COLOR, NUM_TOKENS, PAD, decode_grids, encode_grids


@given(grids(), st.data())
def test_decode_after_encode_at_every_offset(grid, data):
    """The canvas from the grid's offset on decodes to the grid, whatever the offset."""
    side = data.draw(st.integers(max(grid.shape), 30))
    top = data.draw(st.integers(0, side - grid.shape[0]))
    left = data.draw(st.integers(0, side - grid.shape[1]))
    store, unchanged = GridStore.of([grid]), np.zeros(1, dtype=np.uint32)
    tokens = encode_grids(store, np.arange(1), unchanged, np.array([[top, left]]), side)
    canvas = tokens.reshape(side, side)
    assert np.array_equal(canvas, encode_grid(grid, side, (top, left)))
    (decoded,) = decode_grids(np.ascontiguousarray(canvas[None, top:, left:]), unchanged)
    assert np.array_equal(decoded, grid)
    colors = (canvas >= FIRST_COLOR) & (canvas < NUM_TOKENS)
    assert colors.sum() == grid.size


def test_a_grid_that_does_not_fit_its_canvas_is_never_written():
    store, unchanged = GridStore.of([np.ones((2, 3), dtype=np.uint8)]), np.zeros(1, dtype=np.uint32)
    for offset, side in (((0, 0), 2), ((0, 2), 4), ((3, 0), 4)):
        with pytest.raises(AssertionError, match="beyond its canvas"):
            encode_grids(store, np.arange(1), unchanged, np.array([offset]), side)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_any_canvas_decodes_to_its_largest_rectangle_of_colors(seed, side):
    """Also canvases with end markers, padding and tokens that do not exist among the colors."""
    rng = np.random.default_rng(seed)
    canvases = rng.integers(FIRST_COLOR, NUM_TOKENS, (20, side, side), dtype=np.uint8)
    is_other = rng.random(canvases.shape) < rng.random((20, 1, 1))
    canvases[is_other] = rng.choice([PAD, END, NUM_TOKENS], is_other.sum())
    decoded = decode_grids(canvases, np.zeros(20, dtype=np.uint32))
    for canvas, grid in zip(canvases, decoded, strict=True):
        expected = decode_grid(canvas)
        assert (grid is None) == (expected is None)
        assert grid is None or np.array_equal(grid, expected)


@given(st.lists(st.tuples(grids(max_side=12), views), min_size=1, max_size=5))
def test_batches_show_what_views_show(pairs):
    store = GridStore.of(grid for grid, _ in pairs)
    codes = np.array([view.code for _, view in pairs], dtype=np.uint32)
    offsets = np.array([(n % 3, n % 2) for n in range(len(pairs))])
    tokens = encode_grids(store, np.arange(len(pairs)), codes, offsets, 14).reshape(-1, 14, 14)
    for (grid, view), canvas, offset in zip(pairs, tokens, offsets.tolist(), strict=True):
        assert np.array_equal(canvas, encode_grid(view.apply(grid), 14, tuple(offset)))
    placed = encode_grids(store, np.arange(len(pairs)), codes, offsets * 0, 14)
    decoded = decode_grids(placed.reshape(-1, 14, 14), codes)
    for (grid, _), read_back in zip(pairs, decoded, strict=True):
        assert np.array_equal(read_back, grid)


def test_a_canvas_without_a_grid_decodes_to_none():
    canvases = np.zeros((2, 5, 5), dtype=np.uint8)
    canvases[1, 0, 0] = 12  # no token at all, and larger than the last color
    assert decode_grids(canvases, np.zeros(2, dtype=np.uint32)) == [None, None]
    assert decode_grid(canvases[1]) is None
