"""The score of answers to puzzles, worked by hand."""

import numpy as np
import pytest

from augment.maze import generate_mazes
from augment.puzzle_set import PuzzleSet
from augment.sudoku import generate_sudokus
from submission.puzzle_score import score_puzzles


@pytest.fixture
def sudokus():
    questions, answers, _ = generate_sudokus(4, 0, (30, 30))
    return PuzzleSet("sudoku", questions, answers, np.array([0.0, 0.0, 5.0, 50.0]))


def test_a_puzzle_is_solved_when_every_cell_is_right(sudokus):
    predicted_KNSS = np.stack([sudokus.questions, sudokus.answers])
    predicted_KNSS[1, 3, 0, 0] = 0
    score = score_puzzles(sudokus, predicted_KNSS, (1, 16))
    first, last = score.by_step()
    assert first == {"steps": 1, "exact": 0, "cells": pytest.approx(51 / 81), "shortest": None}
    assert last["exact"] == 0.75
    assert last["cells"] == pytest.approx((3 + 80 / 81) / 4)


def test_puzzles_are_grouped_by_rating(sudokus):
    predicted_KNSS = sudokus.answers[None].copy()
    predicted_KNSS[0, 3] = 1
    lines = list(score_puzzles(sudokus, predicted_KNSS, (2,)).by_rating(sudokus.ratings))
    assert sum(line["puzzles"] for line in lines) == 4
    assert [line["from"] for line in lines] == sorted(line["from"] for line in lines)
    assert (lines[0]["from"], lines[0]["exact"]) == (0, 1)
    assert (lines[-1]["to"], lines[-1]["exact"]) == (50, 0)


def test_any_shortest_path_of_a_maze_counts_beside_its_answer():
    questions, answers, steps = generate_mazes(8, 0, 6, 4)
    mazes = PuzzleSet("maze", questions, answers, steps)
    # Read in a mirror, the answer by the order of neighbors is another path of the same length.
    flipped = PuzzleSet("maze", questions[:, ::-1], answers[:, ::-1], steps)
    for puzzles in (mazes, flipped):
        (line,) = score_puzzles(puzzles, puzzles.answers[None], (1,)).by_step()
        assert (line["exact"], line["shortest"]) == (1, 1)
    (line,) = score_puzzles(mazes, mazes.questions[None], (1,)).by_step()
    assert (line["exact"], line["shortest"]) == (0, 0)
