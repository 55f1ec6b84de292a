"""CSV files of puzzles: the published forms, and every kind of bad line."""

import os
import re

import numpy as np
import pytest

from augment import puzzle_files
from augment.errors import InputError
from augment.maze import SIGNS, generate_mazes
from augment.puzzle_files import read_puzzles, write_puzzles
from augment.puzzle_set import PuzzleSet
from augment.sudoku import generate_sudokus, solve_sudokus

# Inkala's puzzle of 2012, as Sudoku-Extreme writes puzzles.
QUESTION = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
ANSWER = "812753649943682175675491283154237896369845721287169534521974368438526917796318452"
# A maze of 4x4.
MAZE, PATH = "S  # #      #  G", "Soo# #oo   o#  G"


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", newline="")
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "puzzles.csv"


@pytest.fixture(scope="module")
def sudokus():
    return PuzzleSet("sudoku", *generate_sudokus(30, 0))


def rows_of(puzzles):
    signs = ".123456789" if puzzles.kind == "sudoku" else SIGNS
    for question, answer in zip(puzzles.questions, puzzles.answers, strict=True):
        yield tuple("".join(signs[c] for c in grid.ravel()) for grid in (question, answer))


def test_the_published_form_of_sudoku(file):
    lines = "source,question,answer,rating", f"puzzles5_forum,{QUESTION},{ANSWER},47"
    for end in ("\n", "\r\n"):
        file.write_bytes((end.join(lines) + end).encode())
        puzzles = read_puzzles(file, "sudoku")
        assert list(rows_of(puzzles)) == [(QUESTION, ANSWER)]
        assert puzzles.ratings.tolist() == [47.0]
        assert puzzles.canvas_side == 9


def test_other_columns_and_zeros_for_blanks(file):
    zeros = QUESTION.replace(".", "0")
    puzzles = read_puzzles(write(file, "answer,question", f"{ANSWER},{zeros}"), "sudoku")
    assert list(rows_of(puzzles)) == [(QUESTION, ANSWER)]
    assert puzzles.ratings.tolist() == solve_sudokus(puzzles.questions).ratings.tolist()


def test_the_published_form_of_mazes(file):
    mazes = PuzzleSet("maze", *generate_mazes(4, 0, 30, 20))
    write(file, "question,answer", *(",".join(row) for row in rows_of(mazes)))
    puzzles = read_puzzles(file, "maze")
    assert np.array_equal(puzzles.questions, mazes.questions)
    assert np.array_equal(puzzles.answers, mazes.answers)
    assert np.array_equal(puzzles.ratings, mazes.ratings)


def test_an_answer_may_be_any_shortest_path(file):
    for path in (PATH, "S  #o#  oooo#  G"):
        puzzles = read_puzzles(write(file, "question,answer,rating", f"{MAZE},{path},x"), "maze")
        assert list(rows_of(puzzles)) == [(MAZE, path)]
        assert puzzles.ratings.tolist() == [6.0]


@pytest.mark.parametrize("kind", ["sudoku", "maze"])
def test_what_is_written_is_read_again(file, sudokus, kind):
    mazes = PuzzleSet("maze", *generate_mazes(5, 0, 7, 6))
    puzzles = sudokus if kind == "sudoku" else mazes
    rated = PuzzleSet(kind, puzzles.questions, puzzles.answers, puzzles.ratings + 0.1)
    for written in (puzzles, rated):
        write_puzzles(file, written)
        read = read_puzzles(file, kind)
        assert np.array_equal(read.questions, written.questions)
        assert np.array_equal(read.answers, written.answers)
        expected = puzzles if kind == "maze" else written
        assert np.array_equal(read.ratings, expected.ratings)
    assert file.read_text().startswith("question,answer,rating\n")
    assert list(file.parent.iterdir()) == [file]


def test_puzzles_are_drawn_in_the_order_of_the_file(file, sudokus, monkeypatch):
    monkeypatch.setattr(puzzle_files, "_LINES_AT_ONCE", 4)
    write_puzzles(file, sudokus)
    assert np.array_equal(read_puzzles(file, "sudoku").questions, sudokus.questions)
    rows = list(rows_of(sudokus))
    drawn = [list(rows_of(read_puzzles(file, "sudoku", 9, seed))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    places = [rows.index(row) for row in drawn[0]]
    assert len(places) == 9
    assert places == sorted(set(places))
    assert list(rows_of(read_puzzles(file, "sudoku", 99))) == rows


def changed(text, place, sign):
    return text[:place] + sign + text[place + 1 :]


SUDOKU_LINES = [
    ("question has 80 signs, not 81: '\\.\\.", QUESTION[1:], ANSWER),
    ("answer has 82 signs, not 81: '", QUESTION, ANSWER + "1"),
    (r"question's cell \(0, 1\) is not one of .*: 'x'", changed(QUESTION, 1, "x"), ANSWER),
    (r"question's cell \(8, 8\) is not one of .*: '♥'", changed(QUESTION, 80, "♥"), ANSWER),
    (r"question's cell \(0, 2\) is not one of .*: '\?'", changed(QUESTION, 2, "?"), ANSWER),
    (r"answer's cell \(0, 1\) is not one of '123456789': '\.'", QUESTION, changed(ANSWER, 1, ".")),
    (r"answer's cell \(0, 1\) is not one of '123456789': '0'", QUESTION, changed(ANSWER, 1, "0")),
    ("the question has no solution: '88", changed(QUESTION, 1, "8"), ANSWER),
    ("the question has more than one solution", changed(QUESTION, 0, "."), ANSWER),
    (r"the answer changes a given digit at cell \(0, 0\): '7", QUESTION, changed(ANSWER, 0, "7")),
    (r"the answer breaks the rules, and differs from the solution at cell \(0, 1\)", QUESTION,
     changed(ANSWER, 1, "2")),
    ("the question is not solved in 1,000,000 guesses",
     ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4.........", ANSWER),
]  # fmt: skip
MAZE_LINES = [
    ("question has 15 signs, not 16", MAZE[1:], PATH),
    (r"question's cell \(0, 1\) is not one of ' #SG': 'o'", PATH, PATH),
    (r"answer's cell \(0, 1\) is not one of ' #SGo': 'x'", MAZE, changed(PATH, 1, "x")),
    ("the question has no 'S', or more than one", changed(MAZE, 0, " "), PATH),
    ("the question has no 'S', or more than one", changed(MAZE, 1, "S"), PATH),
    ("the question has no 'G', or more than one", changed(MAZE, 15, " "), PATH),
    ("the question has no path from 'S' to 'G'", "S#######       G", PATH),
    (r"the answer changes its question at cell \(0, 3\)", MAZE, changed(PATH, 3, " ")),
    (r"the answer changes its question at cell \(0, 0\)", MAZE, changed(PATH, 0, "o")),
    (r"the answer changes its question at cell \(0, 2\)", MAZE, changed(PATH, 2, "#")),
    ("the answer shows no shortest path", MAZE, MAZE),
    ("the answer shows no shortest path", MAZE, changed(PATH, 4, "o")),
]


@pytest.mark.parametrize(
    ("kind", "message", "question", "answer"),
    [("sudoku", *line) for line in SUDOKU_LINES] + [("maze", *line) for line in MAZE_LINES],
)
def test_a_bad_line_is_one_line(file, kind, message, question, answer):
    good = (QUESTION, ANSWER) if kind == "sudoku" else (MAZE, PATH)
    bad = (question, answer)
    lines = (",".join(row) for row in (good, good, bad, good))
    write(file, "question,answer", *lines)
    with pytest.raises(InputError, match=rf"puzzles\.csv: line 4: .*{message}") as caught:
        read_puzzles(file, kind)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300 + len(str(file))


def test_the_first_of_two_bad_lines_is_named(file):
    lines = [f"{changed(QUESTION, 0, '.')},{ANSWER}", f"{changed(QUESTION, 1, '8')},{ANSWER}"]
    with pytest.raises(InputError, match="line 2: the question has more than one solution"):
        read_puzzles(write(file, "question,answer", *lines), "sudoku")


@pytest.mark.parametrize("rating", ["", "hard", "-1", "nan", "inf"])
def test_a_rating_is_a_number_from_0_on(file, rating):
    write(file, "question,answer,rating", f"{QUESTION},{ANSWER},{rating}")
    message = f"line 2: the rating is no number from 0 on: {rating!r}"
    with pytest.raises(InputError, match=message):
        read_puzzles(file, "sudoku")


def test_mazes_are_square_and_not_too_large(file):
    for size in (0, 1, 15, 31**2):
        write(file, "question,answer", f"{'#' * size},{'#' * size}")
        with pytest.raises(InputError, match=rf"line 2: the question has {size} signs, not those"):
            read_puzzles(file, "maze")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: no column 'question', or two, in []"),
        (b"question\n", "line 1: no column 'answer', or two, in ['question']"),
        (b"question,answer,question\n", "line 1: no column 'question', or two"),
        (b"question,answer\n", "no puzzle"),
        (b"question,answer\n1,2,3\n", "line 2: not 2 columns: ['1', '2', '3']"),
        (b"question,answer\n\n", "line 2: not 2 columns: []"),
        (b"question,answer\n\xff\n", "line 2: not UTF-8"),
        (b"question,answer\n\"\n" + b"1\n" * 3, "line 5: no CSV (unexpected end of data)"),
        (b"question,answer\n\"1\"2,3\n", "line 2: no CSV ("),
        (b"question,answer\r1,2\r", "line 1: no CSV ("),
        (b"question,answer\n" + b"1" * 10**6, "line 2: 10,000 bytes or more: b'111"),
        (b"\xef\xbb\xbfquestion,answer\n", "line 1: no column 'question'"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_one_line(file, content, message):
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{file}: {message}")) as caught:
        read_puzzles(file, "sudoku")
    assert len(str(caught.value).splitlines()) == 1


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        (tmp_path, "cannot be read"),
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "pipe", "not a regular file"),
    ]:
        with pytest.raises(InputError, match=message):
            read_puzzles(path, "sudoku")
