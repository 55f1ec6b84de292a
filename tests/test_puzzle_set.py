"""Sets of puzzles are saved, loaded and checked, and are streams that go on anywhere."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import rewrite_description

from augment.errors import InputError
from augment.leakage import training_keys
from augment.maze import PATH, are_shortest_paths, generate_mazes, maze_keys
from augment.puzzle_index import PuzzleIndex
from augment.puzzle_set import PuzzleSet, PuzzleStream, encode_puzzles, encode_questions
from augment.sudoku import are_solved, generate_sudokus, solve_sudokus, sudoku_keys
from augment.tokens import FIRST_COLOR, NUM_TOKENS, decode_grids
from augment.view import transform

KINDS = ("sudoku", "maze")


@pytest.fixture(scope="module")
def sets():
    return {
        "sudoku": PuzzleSet("sudoku", *generate_sudokus(30, 0)),
        "maze": PuzzleSet("maze", *generate_mazes(30, 0, 8, 7)),
    }


def grids_of(tokens):
    side = int(tokens.shape[1] ** 0.5)
    return (tokens - FIRST_COLOR).reshape(-1, side, side)


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_has_each_puzzle_once_as_it_is(sets, kind):
    puzzles = sets[kind]
    stream, size = PuzzleStream(puzzles, 0, with_symmetries=False), len(puzzles.questions)
    pairs = [
        (question.tobytes(), answer.tobytes())
        for question, answer in zip(puzzles.questions, puzzles.answers, strict=True)
    ]
    orders = []
    for epoch in range(3):
        examples = stream.examples(epoch * size, (epoch + 1) * size)
        shown = [
            pairs.index((question.tobytes(), answer.tobytes()))
            for question, answer in zip(
                grids_of(examples.inputs), grids_of(examples.labels), strict=True
            )
        ]
        assert sorted(shown) == list(range(size))
        orders.append(tuple(shown))
    assert len(set(orders)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_has_each_puzzle_once_under_a_symmetry(sets, kind):
    puzzles, size = sets[kind], len(sets[kind].questions)
    examples = PuzzleStream(puzzles, 0, with_symmetries=True).examples(size, 2 * size)
    questions, answers = grids_of(examples.inputs), grids_of(examples.labels)
    keys = sudoku_keys if kind == "sudoku" else maze_keys
    assert sorted(keys(questions)) == sorted(keys(puzzles.questions))
    if kind == "sudoku":
        assert are_solved(answers).all()
        assert np.array_equal(solve_sudokus(questions).grids, answers)
    else:
        assert are_shortest_paths(questions, answers).all()


def test_all_eight_dihedrals_of_a_maze_are_shown(sets):
    one = PuzzleSet("maze", *(column[:1] for column in columns_of(sets["maze"])))
    examples = PuzzleStream(one, 0, with_symmetries=True).examples(0, 800)
    pairs = Counter(
        (question.tobytes(), answer.tobytes())
        for question, answer in zip(
            grids_of(examples.inputs), grids_of(examples.labels), strict=True
        )
    )
    assert set(pairs) == {
        (transform(one.questions[0], d).tobytes(), transform(one.answers[0], d).tobytes())
        for d in range(8)
    }
    assert min(pairs.values()) > 50


@pytest.mark.parametrize("with_symmetries", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_any_part_of_the_stream_is_the_same(sets, kind, with_symmetries):
    """Resumed at any place, and shared by processes that take slices of a batch."""
    whole = PuzzleStream(sets[kind], 3, with_symmetries).examples(0, 200)
    for start, stop in [(57, 123), (1, 2), (90, 150), (199, 200)]:
        part = PuzzleStream(sets[kind], 3, with_symmetries).examples(start, stop)
        for name, column in part.columns.items():
            assert np.array_equal(whole.columns[name][start:stop], column)
    shards = PuzzleStream(sets[kind], 3, with_symmetries)
    parts = [shards.examples(start, start + 25).inputs for start in range(0, 200, 25)]
    assert np.array_equal(np.concatenate(parts), whole.inputs)
    other = PuzzleStream(sets[kind], 4, with_symmetries).examples(0, 200)
    assert not np.array_equal(whole.inputs, other.inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_is_a_color_on_the_whole_canvas_in_row_1(sets, kind):
    puzzles = sets[kind]
    side = puzzles.canvas_side
    examples = PuzzleStream(puzzles, 0, with_symmetries=True).examples(0, 40)
    for tokens in (examples.inputs, examples.labels):
        assert tokens.shape == (40, side**2)
        assert tokens.dtype == np.uint8
        assert FIRST_COLOR <= tokens.min() <= tokens.max() < NUM_TOKENS
    assert examples.rows.tolist() == [1] * 40
    assert examples.codes.tolist() == [0] * 40
    assert examples.codes.dtype == np.uint32
    assert examples.boxes.tolist() == [[0, 0, side, side]] * 40
    grids = decode_grids(examples.labels.reshape(-1, side, side), examples.codes)
    assert np.array_equal(grids, grids_of(examples.labels))


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_encoded_as_they_are(sets, kind):
    puzzles = sets[kind]
    shown = encode_puzzles(puzzles)
    asked = encode_questions(puzzles)
    for examples in (shown, asked):
        assert np.array_equal(grids_of(examples.inputs), puzzles.questions)
        assert set(examples.rows) == {1}
    assert np.array_equal(grids_of(shown.labels), puzzles.answers)
    assert not asked.labels.any()


def test_the_index_is_one_row_of_the_kind(sets, tmp_path):
    index = sets["sudoku"].index
    assert (index.task_ids, index.num_rows, index.rows_per) == (("sudoku",), 2, "view")
    rows, codes = index.rows(np.array([0, 0]), np.array([0, 0]))
    assert (rows.tolist(), codes.tolist()) == ([1, 1], [0, 0])
    index.save(tmp_path)
    assert PuzzleIndex.load(tmp_path).digest == index.digest
    other = PuzzleSet("sudoku", *generate_sudokus(2, 9))
    assert other.index.digest == index.digest != sets["maze"].index.digest


@pytest.mark.parametrize("kind", KINDS)
def test_leak_keys_are_those_of_all_symmetries(sets, kind, arc1):
    puzzles, size = sets[kind], len(sets[kind].questions)
    examples = PuzzleStream(puzzles, 0, with_symmetries=True).examples(0, size)
    shown = replace(puzzles, questions=grids_of(examples.inputs), answers=grids_of(examples.labels))
    assert np.array_equal(shown.trained_on, puzzles.trained_on)
    twice = PuzzleSet(kind, *(np.concatenate([c, c]) for c in columns_of(puzzles)))
    assert np.array_equal(twice.trained_on, puzzles.trained_on)
    assert puzzles.trained_on.dtype == np.uint64
    assert len(puzzles.trained_on) == size
    assert (np.diff(puzzles.trained_on) > 0).all()
    assert not np.isin(training_keys(arc1[0]), puzzles.trained_on).any()


def columns_of(puzzles):
    return puzzles.questions, puzzles.answers, puzzles.ratings


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_sets_are_the_same(sets, tmp_path, kind):
    sets[kind].save(tmp_path / "set", "these")
    for fingerprint in (None, "these"):
        loaded = PuzzleSet.load(tmp_path / "set", fingerprint)
        assert loaded.kind == kind
        for before, after in zip(columns_of(sets[kind]), columns_of(loaded), strict=True):
            assert np.array_equal(before, after)
    with pytest.raises(InputError, match="built from other puzzles or settings"):
        PuzzleSet.load(tmp_path / "set", "those")


def test_damaged_sets_are_refused(sets, tmp_path):
    sets["sudoku"].save(tmp_path)
    path = tmp_path / "puzzles.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"x" + content[-8:])
    with pytest.raises(InputError, match=r"puzzles\.npz: differs from what puzzle_set\.json says"):
        PuzzleSet.load(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"puzzles\.npz: cannot be read"):
        PuzzleSet.load(tmp_path)
    (tmp_path / "puzzle_set.json").write_text("{}")
    with pytest.raises(InputError, match="not a puzzle set of format 2"):
        PuzzleSet.load(tmp_path)


CHANGES = {
    "questions": [
        lambda a: a[:, :7], lambda a: a[1:], lambda a: a[:0], lambda a: a + 9,
        lambda a: a.astype(np.int64), lambda a: a.reshape(-1), lambda a: a[:, :7, :7],
        lambda a: np.roll(a, 1, axis=0),
    ],
    "answers": [lambda a: a[1:], lambda a: a + 1, lambda a: a[::-1], lambda a: a[:, :, :7]],
    "ratings": [lambda a: a[1:], lambda a: -a - 1, lambda a: a * np.nan, lambda a: a + np.inf],
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_that_are_no_puzzles_are_one_line(sets, tmp_path, kind, name):
    """Although every hash is right."""
    for change in CHANGES[name]:
        sets[kind].save(tmp_path)
        path = tmp_path / "puzzles.npz"
        columns = dict(np.load(path))
        columns[name] = change(columns[name])
        np.savez(path, **columns)
        rewrite_description(tmp_path / "puzzle_set.json")
        with pytest.raises(InputError, match=r"puzzles\.npz: ") as caught:
            PuzzleSet.load(tmp_path)
        assert len(str(caught.value).splitlines()) == 1


def test_a_kind_that_is_none_is_refused(sets, tmp_path):
    sets["maze"].save(tmp_path)
    for kind, message in [("chess", "not sudoku or maze"), (3, "not a str")]:
        rewrite_description(tmp_path / "puzzle_set.json", puzzles=kind)
        with pytest.raises(InputError, match=message):
            PuzzleSet.load(tmp_path)
    rewrite_description(tmp_path / "puzzle_set.json", puzzles="sudoku")
    with pytest.raises(InputError, match="not square with a side of a sudoku"):
        PuzzleSet.load(tmp_path)


def test_colors_are_those_of_the_kind(sets):
    questions, answers, ratings = columns_of(sets["maze"])
    answers = answers.copy()
    answers[0][questions[0] == 0] = PATH + 1
    with pytest.raises(InputError, match=r"a cell of a maze is not 0\.\.4"):
        PuzzleSet("maze", questions, answers, ratings)
