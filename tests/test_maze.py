"""Mazes: shortest paths, the tie-break, what counts as right, the generator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from augment import maze
from augment.errors import InputError
from augment.maze import (
    GOAL,
    PATH,
    SIGNS,
    START,
    WALL,
    are_shortest_paths,
    generate_mazes,
    maze_keys,
    solve_mazes,
)
from augment.view import transform


def grid_of(*rows):
    return np.array([[SIGNS.index(sign) for sign in row] for row in rows], np.uint8)


def signs_of(grid):
    return ["".join(SIGNS[color] for color in row) for row in grid]


def steps_plainly(grid):
    """The steps from S to G by widening a set; -1 where it does not grow to G."""
    start, goal = (tuple(np.argwhere(grid == end)[0]) for end in (START, GOAL))
    reached, steps = {start}, 0
    while goal not in reached:
        wider = reached | {
            (r + dr, c + dc)
            for r, c in reached
            for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0))
            if 0 <= r + dr < len(grid) and 0 <= c + dc < len(grid)
            and grid[r + dr, c + dc] != WALL
        }  # fmt: skip
        if wider == reached:
            return -1
        reached, steps = wider, steps + 1
    return steps


@pytest.fixture(scope="module")
def mazes():
    return generate_mazes(40, 1, 12, 15)


def test_the_path_goes_up_left_right_down_where_it_may():
    # Upwards and to the left: up first.
    answers, steps = solve_mazes(np.array([grid_of("G  ", "   ", "  S")]))
    assert signs_of(answers[0]) == ["Goo", "  o", "  S"]
    assert steps.tolist() == [4]
    # Downwards and to the right: right first.
    answers, steps = solve_mazes(np.array([grid_of("S  ", "   ", "  G")]))
    assert signs_of(answers[0]) == ["Soo", "  o", "  G"]
    # Downwards and to the left: left first, around the wall.
    answers, steps = solve_mazes(np.array([grid_of(" #S", "   ", "G  ")]))
    assert signs_of(answers[0]) == [" #S", "ooo", "G  "]
    assert steps.tolist() == [4]


def test_neighbors_need_no_path():
    answers, steps = solve_mazes(np.array([grid_of("SG", "##")]))
    assert signs_of(answers[0]) == ["SG", "##"]
    assert steps.tolist() == [1]
    assert are_shortest_paths(answers, answers).all()


@pytest.mark.parametrize(
    "rows", [("S#G", "###", "   "), ("   ", "   ", "  S"), ("G  ",) * 3, ("GS ", " S ", "   ")]
)
def test_without_ends_or_a_path_there_are_no_steps(rows):
    question = grid_of(*rows)[None]
    answers, steps = solve_mazes(question)
    assert steps.tolist() == [-1]
    assert np.array_equal(answers, question)
    assert not are_shortest_paths(question, question).any()


@given(arrays(np.bool_, (6, 6)), st.permutations(range(36)))
def test_steps_are_those_of_a_plain_search(walls, cells):
    question = walls.astype(np.uint8)
    question.flat[cells[0]], question.flat[cells[1]] = START, GOAL
    answers, steps = solve_mazes(question[None])
    assert steps[0] == steps_plainly(question)
    assert are_shortest_paths(question[None], answers)[0] == (steps[0] > 0)


def test_any_shortest_path_is_right_and_nothing_else():
    question = grid_of("S  ", "   ", "  G")
    for rows, is_right in [
        (("Soo", "  o", "  G"), True),
        (("S  ", "oo ", " oG"), True),
        (("S  ", "o  ", "ooG"), True),
        (("S  ", "   ", "  G"), False),  # none
        (("Soo", "   ", "  G"), False),  # not to the end
        (("So ", "  o", " oG"), False),  # of diagonal steps
        (("Soo", " oo", "  G"), False),  # a cell too many
        (("Soo", " #o", "  G"), False),  # another wall
        (("Soo", "  o", "  S"), False),  # another goal
        (("ooo", "  o", "  G"), False),  # no start
        (("oo ", "So ", " oG"), False),  # another start
    ]:
        assert are_shortest_paths(question[None], grid_of(*rows)[None])[0] == is_right, rows
    detour = grid_of("S #", "o#G", "ooo")
    assert not are_shortest_paths(grid_of("S #", "  G", "   ")[None], detour[None])[0]
    through_a_wall = grid_of("SoG", "###", "   ")
    assert not are_shortest_paths(grid_of("S#G", "# #", "   ")[None], through_a_wall[None])[0]
    odd_colors = np.full((1, 3, 3), 9, np.uint8)
    assert not are_shortest_paths(question[None], odd_colors)[0]


def test_longer_paths_are_wrong():
    question = grid_of("S   ", " ## ", "    ", "   G")
    for rows, is_right in [
        (("Sooo", " ##o", "   o", "   G"), True),
        (("S   ", "o## ", "ooo ", "  oG"), True),
        (("S   ", "o## ", "oooo", "   G"), True),
        (("S   ", "o## ", "o   ", "oooG"), True),
    ]:
        assert are_shortest_paths(question[None], grid_of(*rows)[None])[0] == is_right, rows
    longer = grid_of("S###", "o## ", "o oo", "oooG")
    assert not are_shortest_paths(grid_of("S###", " ## ", "    ", "   G")[None], longer[None])[0]


def test_keys_are_those_of_all_eight_dihedrals(mazes):
    questions = mazes[0]
    keys = maze_keys(questions)
    assert len(set(keys.tolist())) == len(questions)
    for dihedral in range(8):
        turned = np.array([transform(question, dihedral) for question in questions])
        assert np.array_equal(maze_keys(turned), keys)
    moved = np.roll(questions, 1, axis=1)
    assert not np.isin(maze_keys(moved), keys).any()


def test_generated_mazes_have_long_paths(mazes):
    questions, answers, steps = mazes
    for end in (START, GOAL):
        assert ((questions == end).sum(axis=(1, 2)) == 1).all()
    assert questions.max() == GOAL
    assert steps.min() >= 15
    assert steps.tolist() == [steps_plainly(question) for question in questions]
    assert are_shortest_paths(questions, answers).all()
    assert ((answers == PATH).sum(axis=(1, 2)) == steps - 1).all()
    assert 0.25 < (questions == WALL).mean() < 0.5


def test_a_maze_is_a_function_of_seed_and_number(mazes):
    fewer = generate_mazes(7, 1, 12, 15)
    later = generate_mazes(4, 1, 12, 15, first=3)
    for few, late, whole in zip(fewer, later, mazes, strict=True):
        assert np.array_equal(few, whole[:7])
        assert np.array_equal(late, whole[3:7])
    assert not np.array_equal(generate_mazes(7, 2, 12, 15)[0], fewer[0])


def test_no_two_small_mazes_are_the_same():
    questions, _, _ = generate_mazes(60, 0, 3, 3)
    assert len(set(maze_keys(questions).tolist())) == 60


def test_walls_have_their_share():
    questions, _, steps = generate_mazes(30, 0, 20, 1, (0.1, 0.1))
    assert 0.05 < (questions == WALL).mean() < 0.15
    assert steps.min() >= 1
    assert not (generate_mazes(3, 0, 20, 1, (0.0, 0.0))[0] == WALL).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 5), "a maze of side 1: not 2..30"),
        ((31, 5), "a maze of side 31"),
        ((5, 0), "a path of 0 steps: not 1..24 in 5x5"),
        ((5, 25), "a path of 25 steps"),
        ((5, 5, (0.4, 0.3)), "walls of 0.4..0.3"),
        ((5, 5, (0.4, 1.0)), "walls of 0.4..1.0"),
        ((5, 24), "none of 128 random mazes of 5x5 is a new one with 24 steps or more"),
        ((2, 1), "none of 128 random mazes of 2x2 is a new one"),
    ],
)
def test_what_cannot_be_generated_is_one_line(monkeypatch, arguments, message):
    monkeypatch.setattr(maze, "_MOST_TRIES", 128)
    with pytest.raises(InputError, match=message):
        generate_mazes(20, 0, *arguments)
