"""Sudoku: the solver against a plain one, symmetries, what they leave the same, the generator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment import sudoku
from augment.errors import InputError
from augment.sudoku import (
    NUM_UNIFORMS,
    Symmetries,
    are_solved,
    generate_sudokus,
    solve_sudokus,
    sudoku_keys,
)

# Gordon Royle's first puzzle of 17 givens, and some that are known to be hard, the first of Inkala.
KNOWN = (
    "000000010400000000020000000000050407008000300001090000300400200050100000000806000",
    "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..",
    ".......39.....1..5..3.5.8....8.9...6.7...2...1..4.......9.8..5..2....6..4..7.....",
    "1.......2.9.4...5...6...7...5.9.3.......7.......85..4.7.....6...3...9.8...2.....1",
)
# Norvig's puzzle without a solution, which singles say little about.
IMPOSSIBLE = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4........."


def grid_of(text):
    return np.array([int(sign) if sign != "." else 0 for sign in text], np.uint8).reshape(9, 9)


def count_plainly(grid):
    """The number of solutions, up to two, by trying all digits in the first blank."""
    blanks = np.argwhere(grid == 0)
    if not len(blanks):
        boxes = grid.reshape(3, 3, 3, 3).swapaxes(1, 2).reshape(9, 9)
        return int(all(len(set(unit)) == 9 for unit in (*grid, *grid.T, *boxes)))
    row, column = blanks[0]
    top, left = row // 3 * 3, column // 3 * 3
    box = grid[top : top + 3, left : left + 3]
    count = 0
    for digit in {*range(1, 10)} - {*grid[row]} - {*grid[:, column]} - {*box.ravel()}:
        grid[row, column] = digit
        count += count_plainly(grid)
        if count > 1:
            break
    grid[row, column] = 0
    return min(count, 2)


@pytest.fixture(scope="module")
def puzzles():
    return generate_sudokus(60, 1, (30, 55))


def test_known_hard_puzzles_have_their_one_solution():
    questions = np.array([grid_of(text) for text in KNOWN])
    grids, counts, ratings = solve_sudokus(questions)
    assert counts.tolist() == [1] * len(KNOWN)
    assert are_solved(grids).all()
    assert ((questions == 0) | (questions == grids)).all()
    assert ratings[0] == 0  # few givens do not make it hard
    assert ratings[1:].min() > 50


def test_the_solver_counts_as_a_plain_one_does(puzzles):
    """Puzzles with one solution, of which some givens are wrong, or are taken away."""
    rng = np.random.default_rng(0)
    questions = []
    for question in puzzles[0][:40]:
        changed = question.copy()
        cells = np.argwhere(changed > 0)
        for row, column in cells[rng.permutation(len(cells))[: rng.integers(4)]]:
            changed[row, column] = rng.integers(10) if rng.random() < 0.4 else 0
        questions.append(changed)
    counts = solve_sudokus(np.array(questions)).counts.tolist()
    assert counts == [count_plainly(question.copy()) for question in questions]
    assert set(counts) == {0, 1, 2}


def test_givens_that_contradict_each_other_have_no_solution_and_no_givens_have_many():
    twice, empty = np.zeros((2, 9, 9), np.uint8)
    twice[4, 0] = twice[4, 8] = 3
    grids, counts, ratings = solve_sudokus(np.array([twice, empty]))
    assert counts.tolist() == [0, 2]
    assert ratings[0] == 0
    assert not grids[0].any()
    assert are_solved(grids).tolist() == [False, True]


def test_the_solver_gives_up():
    assert solve_sudokus(grid_of(IMPOSSIBLE)[None]).counts.tolist() == [-1]


def test_a_solved_grid_has_each_digit_in_each_unit(puzzles):
    answer = puzzles[1][0]
    assert are_solved(answer[None]).all()
    rows_swapped = answer[[3, 1, 2, 0, 4, 5, 6, 7, 8]]  # rows and columns are right, boxes are not
    another = answer.copy()
    another[0, 0] = answer[0, 1]
    assert not are_solved(np.array([rows_swapped, another, np.zeros((9, 9), np.uint8)])).any()


@given(st.integers(0, 2**32))
def test_symmetries_keep_solutions_and_the_key(puzzles, seed):
    questions, answers, _ = puzzles
    uniforms = np.random.default_rng(seed).random((len(questions), NUM_UNIFORMS))
    symmetries = Symmetries.draw(uniforms)
    shown, solved = symmetries.apply(questions), symmetries.apply(answers)
    assert are_solved(solved).all()
    grids, counts, _ = solve_sudokus(shown)
    assert (counts == 1).all()
    assert np.array_equal(grids, solved)
    assert np.array_equal(sudoku_keys(shown), sudoku_keys(questions))
    assert not np.array_equal(shown, questions)


def test_symmetries_are_of_every_kind():
    """Of a grid of its cells' numbers one sees where each cell came from."""
    uniforms = np.random.default_rng(0).random((4000, NUM_UNIFORMS))
    digits, cells = Symmetries.draw(uniforms)
    assert (np.sort(digits[:, 1:], axis=1) == np.arange(1, 10)).all()
    assert not digits[:, 0].any()
    assert {tuple(np.bincount(digits[:, n], minlength=10) > 0) for n in range(1, 10)} == {
        (False, *[True] * 9)
    }
    rows, columns = np.divmod(cells.reshape(-1, 9, 9), 9)
    is_transposed = rows[:, 0, 0] != rows[:, 0, 1]
    assert 0.45 < is_transposed.mean() < 0.55
    of_rows, of_columns = rows[~is_transposed, :, 0], columns[~is_transposed, 0]
    for lines in (of_rows, of_columns):
        assert (np.sort(lines, axis=1) == np.arange(9)).all()
        assert (np.ptp(lines.reshape(-1, 3, 3) // 3, axis=2) == 0).all()
        assert len(np.unique(lines, axis=0)) > 900  # of 1,296
    assert len(np.unique(cells, axis=0)) > 3980  # of 3.4 million


def test_other_changes_change_the_key(puzzles):
    questions = puzzles[0]
    keys = sudoku_keys(questions)
    across_bands = questions[:, [3, 1, 2, 0, 4, 5, 6, 7, 8]]
    one_less = questions.copy()
    for question in one_less:
        question[tuple(np.argwhere(question)[0])] = 0
    for changed in (across_bands, one_less):
        assert not np.isin(sudoku_keys(changed), keys).any()


def test_generated_puzzles_have_one_solution_and_the_blanks_asked_for(puzzles):
    questions, answers, ratings = puzzles
    solved = solve_sudokus(questions)
    assert (solved.counts == 1).all()
    assert np.array_equal(solved.grids, answers)
    assert np.array_equal(solved.ratings, ratings)
    blanks = (questions == 0).sum(axis=(1, 2))
    assert 30 <= blanks.min() < 35
    assert 50 < blanks.max() <= 55
    assert len(set(sudoku_keys(questions).tolist())) == len(questions)
    assert len(np.unique(answers, axis=0)) == len(answers)


def test_as_many_blanks_as_can_be():
    """Not one digit more can go where so many blanks cannot be reached."""
    questions, _, _ = generate_sudokus(3, 0, (64, 64))
    for question in questions:
        assert 50 < (question == 0).sum() < 64
        fewer = np.array([question] * 81)
        fewer.reshape(81, 81)[np.eye(81, dtype=bool)] = 0
        is_given = question.ravel() > 0
        assert (solve_sudokus(fewer).counts[is_given] == 2).all()


def test_a_puzzle_is_a_function_of_seed_and_number(puzzles):
    fewer = generate_sudokus(7, 1, (30, 55))
    later = generate_sudokus(4, 1, (30, 55), first=3)
    for few, late, whole in zip(fewer, later, puzzles, strict=True):
        assert np.array_equal(few, whole[:7])
        assert np.array_equal(late, whole[3:7])
    assert not np.array_equal(generate_sudokus(7, 2, (30, 55))[0], fewer[0])


def test_a_puzzle_that_would_be_another_is_drawn_again(monkeypatch):
    """Full grids but for a blank fall into few classes here."""
    keys = iter([5, 5, 5, 7, 5, 7, 9])
    monkeypatch.setattr(sudoku, "sudoku_keys", lambda grids: np.array([next(keys)], np.uint64))
    assert len(generate_sudokus(3, 0, (1, 1))[0]) == 3
    assert not list(keys)


def test_puzzles_of_a_range_of_ratings():
    _, _, ratings = generate_sudokus(5, 0, (52, 58), (3, 9))
    assert ratings.min() >= 3
    assert ratings.max() <= 9


@pytest.mark.parametrize(
    ("blanks", "ratings", "message"),
    [
        ((0, 5), None, "blanks 0..5: not a range in 1..64"),
        ((9, 8), None, "blanks 9..8"),
        ((30, 65), None, "blanks 30..65"),
        ((30, 40), (5, 4), "ratings 5..4: not a range"),
        ((1, 1), (5, 9), "none of 20 random puzzles with 1..1 blanks is a new one rated 5..9"),
    ],
)
def test_what_cannot_be_generated_is_one_line(monkeypatch, blanks, ratings, message):
    monkeypatch.setattr(sudoku, "_MOST_TRIES", 20)
    with pytest.raises(InputError, match=message):
        generate_sudokus(1, 0, blanks, ratings)
