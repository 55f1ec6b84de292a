"""Solutions that training would give away are found by content, under every view."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import needs_concept
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.errors import InputError
from augment.leakage import (
    content_keys,
    find_given_away_tests,
    find_leaks,
    pair_keys,
    refuse_leaks,
    training_keys,
)
from augment.task import Pair
from augment.view import NUM_COLOR_MAPS, NUM_VIEWS, color_maps, transform
from pipeline.recipes import RECIPES
from pipeline.sources import load_source, load_sources

LEAK = "test 0 of 50a16a69 is demonstration 2 of caa06a1f with colors 4->8, 5->6, 6->3"


@pytest.mark.parametrize(
    ("trained", "predicted", "count"),
    [
        ("arc1/training", "arc1/evaluation", 2),
        ("arc1/training", "arc2/evaluation", 0),
        ("arc1/evaluation", "arc1/training", 1),
        ("arc1/evaluation", "arc2/evaluation", 7),
        ("arc2/training", "arc1/evaluation", 376),
        ("arc2/training", "arc2/evaluation", 0),
        ("arc2/training", "arc2-167/evaluation", 0),
        ("arc2-new", "arc1/evaluation", 0),
    ],
)
def test_leaks_are_found_by_content(trained, predicted, count):
    """Those of the table in docs/DESIGN.md, whatever a task is called, solutions hidden or not."""
    teachers = load_source(trained)
    for chosen in (load_source(predicted), [t.without_solutions() for t in load_source(predicted)]):
        renamed = [replace(task, task_id=f"r{number}") for number, task in enumerate(chosen)]
        for tasks in (chosen, renamed):
            if count == 0:
                refuse_leaks(teachers, tasks)
                continue
            with pytest.raises(InputError, match=f"solutions of {count} tasks") as caught:
                refuse_leaks(teachers, tasks)
            assert len(str(caught.value)) < 700


@needs_concept
@pytest.mark.parametrize("predicted", ["arc1/evaluation", "arc2/evaluation", "arc1/training"])
def test_concept_gives_nothing_away(predicted):
    assert find_leaks(load_source("concept"), load_source(predicted)) == []


def test_the_recolored_pair_in_arc1_is_named_with_its_view():
    """What the guard let pass when it compared grids as they stand."""
    tasks = {task.task_id: task for task in load_sources(["arc1/training", "arc1/evaluation"])}
    pair, scored = tasks["caa06a1f"], tasks["50a16a69"]
    assert [str(leak) for leak in find_leaks([pair], [scored])] == [LEAK]
    (hidden,) = find_leaks([pair], [scored.without_solutions()])
    assert str(hidden) == LEAK.replace(" is ", " has the input of ")
    assert [str(leak) for leak in find_given_away_tests([scored, pair])] == [LEAK]


def shown(task, code):
    """The task under a view."""
    dihedral, rank = divmod(code, NUM_COLOR_MAPS)

    def show(grid):
        return transform(color_maps()[rank][grid], dihedral)

    return replace(
        task,
        train=tuple(Pair(show(pair.input), show(pair.output)) for pair in task.train),
        test_inputs=tuple(map(show, task.test_inputs)),
        solutions=tuple(map(show, task.solutions)),
    )


@settings(max_examples=15)
@given(st.integers(0, 399), st.integers(0, NUM_VIEWS - 1))
def test_a_task_is_the_same_under_every_view_and_in_every_order(arc1, number, code):
    task = arc1[number]
    copy = shown(task, code)
    copy = replace(copy, task_id="copy", train=copy.train[::-1])
    assert sorted(content_keys(copy)) == sorted(content_keys(task))
    with pytest.raises(InputError, match=f"the demonstrations of copy are .* of {task.task_id}"):
        refuse_leaks([task], [copy])
    with pytest.raises(InputError, match="solutions of 1 tasks"):
        refuse_leaks([task], [copy.without_solutions()])


def test_demonstrations_that_are_views_of_each_other_have_no_order_of_their_own(arc1):
    """Which of them comes first must not depend on the names of their colors."""
    tasks = [task for task in arc1 if task.task_id in ("0d3d703e", "93b581b8")]
    rng = np.random.default_rng(0)
    for task in tasks:
        for code in rng.integers(NUM_VIEWS, size=20):
            assert sorted(content_keys(shown(task, code))) == sorted(content_keys(task))


@settings(max_examples=15)
@given(st.integers(0, 399), st.integers(0, NUM_VIEWS - 1))
def test_the_view_that_an_error_names_is_the_view(arc1, number, code):
    task = arc1[number]
    copy = replace(shown(task, code), task_id="copy", train=task.train[:1])
    for leak in find_leaks([task], [copy]):
        words = str(leak).partition(" with colors ")
        renamed = dict(pair.split("->") for pair in words[2].split(", ")) if words[2] else {}
        table = np.array([int(renamed.get(str(color), color)) for color in range(10)], np.uint8)
        trained, scored = leak.trained.units[0][0], leak.scored.units[0][0]
        colors = np.bincount(table[trained].ravel(), minlength=10)
        assert colors.tolist() == np.bincount(scored.ravel(), minlength=10).tolist()


def test_demonstrations_recolored_one_by_one_are_not_the_same_as_a_whole(arc1):
    """A view recolors all pairs of a task alike."""
    task = next(t for t in arc1 if t.task_id == "0d3d703e")  # a task of colors alone
    whole, *pairs = content_keys(task)
    first = task.train[0]
    table = np.array([0, 2, 3, 4, 5, 6, 7, 8, 9, 1], np.uint8)
    recolored = replace(
        task, train=(Pair(table[first.input], table[first.output]), *task.train[1:])
    )
    others, *others_pairs = content_keys(recolored)
    assert others != whole
    assert others_pairs == pairs


def test_small_inputs_are_compared_as_they_stand():
    """In some view many unrelated tasks have the same 3x3 input; these are shown by its output."""
    grid, output = np.eye(3, dtype=np.uint8), np.ones((1, 1), np.uint8)
    turned = Pair(np.ascontiguousarray(2 * grid[::-1]), 2 * output)
    pair = Pair(grid, output)
    assert pair_keys(pair)[0] == pair_keys(turned)[0]
    assert pair_keys(pair)[1] != pair_keys(turned)[1]
    large = [Pair(np.kron(p.input, np.ones((2, 2), np.uint8)), p.output) for p in (pair, turned)]
    assert pair_keys(large[0]) == pair_keys(large[1])


def test_the_black_of_a_grid_is_no_color_that_views_change(arc1):
    swapped = np.array([1, 0, *range(2, 10)], np.uint8)
    task = arc1[0]
    copy = replace(task, train=tuple(Pair(swapped[p.input], swapped[p.output]) for p in task.train))
    assert content_keys(copy)[0] != content_keys(task)[0]
    assert set(training_keys(copy)[1:-2]).isdisjoint(training_keys(task)[1:3])


@needs_concept
@pytest.mark.parametrize("recipe", ["arc1", "arc2", "arc1-fast", "arc2-fast"])
def test_recipes_leak_nothing(recipe):
    data = RECIPES[recipe]().data
    kept = [t for t in load_sources(data.trained) if t.task_id not in data.left_out]
    refuse_leaks(kept, load_sources(data.predicted))
