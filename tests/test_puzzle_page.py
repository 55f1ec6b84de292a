"""The page of an evaluation on puzzles: what it shows, and that names are no markup."""

import numpy as np
import pytest

from augment.maze import generate_mazes
from augment.puzzle_set import PuzzleSet
from augment.sudoku import generate_sudokus
from submission.puzzle_page import write_puzzle_page
from submission.puzzle_score import score_puzzles


@pytest.mark.parametrize("kind", ["sudoku", "maze"])
def test_the_page_draws_solved_and_unsolved_puzzles(kind, tmp_path):
    made = generate_sudokus(3, 0, (30, 30)) if kind == "sudoku" else generate_mazes(3, 0, 6, 4)
    puzzles = PuzzleSet(kind, *made)
    predicted_KNSS = np.stack([puzzles.questions, puzzles.answers])
    predicted_KNSS[1, 2] = puzzles.questions[2]
    path = tmp_path / "index.html"
    score = score_puzzles(puzzles, predicted_KNSS, (1, 2))
    write_puzzle_page(path, "<b>odd", puzzles, predicted_KNSS, score)
    page = path.read_text()
    assert "&lt;b&gt;odd" in page
    assert "<b>" not in page
    assert "Not solved: 1" in page
    assert "Solved: 2" in page
    assert page.count("<svg") == 3
    assert ("a shortest path" in page) == (kind == "maze")
    assert "66.7%" in page
