"""Sources of Sudoku puzzles and mazes: files, generated ones, and names that mean nothing."""

import numpy as np
import pytest

from augment.errors import InputError
from augment.puzzle_files import write_puzzles
from pipeline.puzzle_sources import are_puzzles, load_puzzles
from pipeline.recipes import load_recipe
from pipeline.sources import fingerprint_sources, load_source


def settings(name, *changes):
    return load_recipe("sudoku-small", [f"data.trained={name}", f"data.predicted={name}", *changes])


@pytest.mark.parametrize(
    ("name", "kind", "side"), [("sudoku/30", "sudoku", 9), ("maze/6", "maze", 6)]
)
def test_generated_puzzles_to_evaluate_are_none_of_those_trained_on(name, kind, side):
    both = settings(name, "puzzles.num_trained=6", "puzzles.num_predicted=4", "data.seed=3")
    trained, evaluated = (load_puzzles(both, part) for part in ("trained", "predicted"))
    assert (trained.kind, trained.canvas_side, len(trained.questions)) == (kind, side, 6)
    assert len(evaluated.questions) == 4
    assert not np.intersect1d(trained.trained_on, evaluated.trained_on).size
    assert load_puzzles(both, "trained").digest == trained.digest


@pytest.mark.parametrize("name", ["sudoku/30", "maze/6"])
def test_pretraining_is_evaluated_on_puzzles_of_neither_part(name):
    changes = ["puzzles.num_trained=6", "puzzles.num_predicted=4", "data.num_evaluated=3"]
    every = settings(name, *changes, f"data.evaluated={name}")
    others = np.union1d(*(load_puzzles(every, part).keys for part in ("trained", "predicted")))
    evaluated = load_puzzles(every, "evaluated")
    assert len(evaluated.questions) == 3
    assert not np.isin(evaluated.keys, others).any()


def test_a_file_is_evaluated_on_the_lines_that_are_not_trained_on(tmp_path):
    puzzles = load_puzzles(settings("sudoku/30", "puzzles.num_trained=9"), "trained")
    write_puzzles(tmp_path / "train.csv", puzzles)
    name = f"sudoku:{tmp_path}"
    changes = [f"data.evaluated={name}", "data.num_evaluated=3"]
    every = settings(name, *changes, "puzzles.num_trained=4")
    trained, evaluated = load_puzzles(every, "trained"), load_puzzles(every, "evaluated")
    assert (len(trained.keys), len(evaluated.keys)) == (4, 3)
    assert not np.isin(evaluated.keys, trained.keys).any()
    assert np.isin(evaluated.keys, puzzles.keys).all()
    for number, message in ((9, "train.csv: no puzzle after 9 others"), (0, "leaves no puzzle")):
        with pytest.raises(InputError, match=message):
            load_puzzles(settings(name, *changes, f"puzzles.num_trained={number}"), "evaluated")
    with pytest.raises(InputError, match=r"'maze/5'; for puzzles it is data.trained"):
        load_puzzles(settings(name, "data.evaluated=maze/5"), "evaluated")


def test_files_are_those_of_the_part(tmp_path):
    puzzles = load_puzzles(settings("sudoku/30", "puzzles.num_trained=5"), "trained")
    write_puzzles(tmp_path / "train.csv", puzzles.take(slice(0, 3)))
    write_puzzles(tmp_path / "test.csv", puzzles.take(slice(3, None)))
    name = f"sudoku:{tmp_path}"
    before = fingerprint_sources([name])
    for count, part, most in ((3, "trained", 0), (2, "predicted", 0), (2, "trained", 2)):
        number = "num_trained" if part == "trained" else "num_predicted"
        read = load_puzzles(settings(name, f"puzzles.{number}={most}"), part)
        assert len(read.questions) == count
    write_puzzles(tmp_path / "test.csv", puzzles.take(slice(4, None)))
    assert fingerprint_sources([name]) != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sudoku/65", "at most sudoku/64"),
        ("maze/31", "at most maze/30"),
        ("sudoku/0", "one of sudoku:FOLDER"),
        ("sudoku:", "one of sudoku:FOLDER"),
        ("arc1/training", "one of sudoku:FOLDER"),
        ("sudoku/30,sudoku/40", "one of sudoku:FOLDER"),
        ("sudoku:nowhere", "nowhere/train.csv: cannot be read"),
    ],
)
def test_other_names_are_one_line(name, message):
    with pytest.raises(InputError, match=message):
        load_puzzles(settings(name), "trained")


def test_puzzles_are_no_tasks():
    assert are_puzzles(["sudoku/40"])
    assert not are_puzzles(["folder:sudoku", "arc1/training"])
    with pytest.raises(InputError, match="holds puzzles"):
        load_source("maze/10")
