"""Views form a group, are numbered without gaps, and are drawn distinct."""

import itertools
import math

import numpy as np
from grid_oracle import View, grids, permutations, views
from hypothesis import given
from hypothesis import strategies as st

from augment.view import NUM_VIEWS, color_maps, sample_views


@given(grids(), permutations)
def test_invert_undoes_all_eight_dihedrals(grid, colors):
    for dihedral in range(8):
        view = View(dihedral, colors)
        assert np.array_equal(view.invert().apply(view.apply(grid)), grid)


@given(grids(), views, views)
def test_compose_is_one_after_the_other(grid, after, before):
    assert np.array_equal(after.compose(before).apply(grid), after.apply(before.apply(grid)))


@given(views)
def test_code_names_the_view(view):
    assert View.from_code(view.code) == view
    assert 0 <= view.code < NUM_VIEWS


def test_color_maps_are_all_there_in_order():
    maps = color_maps()
    assert maps.shape == (math.factorial(9), 10)
    expected = itertools.islice(itertools.permutations(range(1, 10)), 1000)
    assert maps[:1000, 1:].tolist() == [list(p) for p in expected]
    assert maps[-1].tolist() == [0, 9, 8, 7, 6, 5, 4, 3, 2, 1]


@given(st.lists(grids(max_side=4), min_size=1, max_size=3), st.integers(0, 40))
def test_sampled_views_are_distinct_on_the_grids(task_grids, count):
    codes = sample_views(task_grids, "task", count, seed=0)
    shown = set()
    for code in codes:
        view = View.from_code(code)
        seen = [view.apply(grid) for grid in task_grids]
        shown.add(tuple((grid.shape, grid.tobytes()) for grid in seen))
    assert codes[0] == 0
    assert len(shown) == len(codes) <= count + 1


def test_all_views_are_found_where_there_are_few():
    """By brute force: a square of two colors, symmetric under some of the transforms."""
    grid = np.array([[1, 2], [2, 1]], dtype=np.uint8)
    existing = {
        (shown.shape, shown.tobytes())
        for dihedral in range(8)
        for a, b in itertools.permutations(range(1, 10), 2)
        for shown in [View(dihedral, fill_colors(a, b)).apply(grid)]
    }
    assert len(sample_views([grid], "task", 1000, seed=0)) == len(existing) == 72
    black = np.zeros((3, 3), dtype=np.uint8)
    assert sample_views([black], "task", 1000, seed=0).tolist() == [0]


def fill_colors(a, b):
    return (0, a, b, *(c for c in range(1, 10) if c not in (a, b)))


def test_views_of_a_task_do_not_depend_on_other_tasks(arc1):
    alone = sample_views(arc1[3].visible_grids, arc1[3].task_id, 100, seed=5)
    again = sample_views(arc1[3].visible_grids, arc1[3].task_id, 100, seed=5)
    other_seed = sample_views(arc1[3].visible_grids, arc1[3].task_id, 100, seed=6)
    fewer = sample_views(arc1[3].visible_grids, arc1[3].task_id, 10, seed=5)
    assert np.array_equal(alone, again)
    assert not np.array_equal(alone, other_seed)
    assert len(fewer) == 11


def test_dihedrals_come_before_colors(arc1):
    for task in arc1[:30]:
        views = [
            View.from_code(code) for code in sample_views(task.visible_grids, task.task_id, 20, 0)
        ]
        keeps_colors = [view.colors == tuple(range(10)) for view in views]
        num_dihedrals = keeps_colors.index(False)
        assert not any(keeps_colors[num_dihedrals:])
        assert len({view.dihedral for view in views[:num_dihedrals]}) == num_dihedrals
        assert [view.dihedral for view in views[:1]] == [0]
        assert num_dihedrals in (2, 4, 8)


@given(st.lists(grids(max_side=4), min_size=1, max_size=3), st.sets(st.integers(1, 9), max_size=9))
def test_colors_that_are_kept_stay_as_they_are(task_grids, kept):
    codes = sample_views(task_grids, "task", 40, 0, sorted(kept))
    shown = set()
    for code in codes:
        view = View.from_code(code)
        assert all(view.colors[color] == color for color in kept)
        seen = [view.apply(grid) for grid in task_grids]
        shown.add(tuple((grid.shape, grid.tobytes()) for grid in seen))
    assert len(shown) == len(codes)


def test_all_views_that_keep_a_color_are_found_where_there_are_few():
    """The square of before: what turns its colors about is no symmetry where one is kept."""
    grid = np.array([[1, 2], [2, 1]], dtype=np.uint8)
    shown = {
        View(dihedral, fill_colors(1, b)).apply(grid).tobytes()
        for dihedral in range(8)
        for b in range(2, 10)
    }
    assert len(sample_views([grid], "task", 1000, 0, kept=[1])) == len(shown) == 16
