"""Data sets are saved, loaded and checked, and train only on solutions they may."""

import numpy as np
import pytest
from commands import task_json
from conftest import fresh_pairs, make_dataset, rewrite_description, solved_dataset

from augment.dataset import Dataset
from augment.errors import InputError
from augment.examples import ExampleStream
from augment.leakage import pair_keys
from augment.puzzle_index import PuzzleIndex
from augment.task import tasks_by_id


def test_answers_are_trained_on_only_where_allowed(small_tasks):
    index = PuzzleIndex.of(small_tasks, 2, 0, "view")
    allowed = (True,) + (False,) * (len(small_tasks) - 1)
    dataset = Dataset(tuple(small_tasks), index, allowed, 10)
    expected = [len(t.train) + (len(t.test_inputs) if n == 0 else 0)
                for n, t in enumerate(small_tasks)]  # fmt: skip
    assert [len(pairs) for pairs in dataset.trained_pairs] == expected


@pytest.mark.parametrize("rows_per", ["view", "task"])
def test_saved_and_loaded_data_sets_are_the_same(small_tasks, tmp_path, rows_per):
    dataset = make_dataset(small_tasks, rows_per)
    dataset.save(tmp_path)
    loaded = Dataset.load(tmp_path)
    assert loaded.index.digest == dataset.index.digest
    assert loaded.index.num_rows == dataset.index.num_rows
    before, after = (ExampleStream(d, 1).examples(0, 99) for d in (dataset, loaded))
    assert np.array_equal(before.inputs, after.inputs)
    assert np.array_equal(before.rows, after.rows)
    assert all(task.solutions is None for task in loaded.tasks)


@pytest.mark.parametrize("hidden", [True, False])
def test_saved_and_loaded_tasks_are_the_same(arc1, tmp_path, hidden):
    tasks = tuple(task.without_solutions() if hidden else task for task in arc1[::20])
    with_solutions = tuple(not hidden and number % 2 == 0 for number in range(len(tasks)))
    index = PuzzleIndex.of(tasks, 3, 0, "task")
    Dataset(tasks, index, with_solutions, 30).save(tmp_path)
    loaded = Dataset.load(tmp_path)
    assert [task.task_id for task in loaded.tasks] == [task.task_id for task in tasks]
    assert [task_json(task) for task in loaded.tasks] == [task_json(task) for task in tasks]
    assert loaded.with_solutions == with_solutions
    assert np.array_equal(loaded.trained_on, Dataset(tasks, index, with_solutions, 30).trained_on)


def test_fresh_pairs_are_trained_on_and_change_nothing_else(small_tasks, tmp_path):
    """They stand after a task's own; views, rows and the size of an epoch stay, on disk too."""
    own, fresh = solved_dataset(small_tasks), fresh_pairs(50)
    extended = own.with_fresh_pairs([fresh, *[()] * (len(small_tasks) - 1)])
    extended.save(tmp_path)
    for dataset in (extended, Dataset.load(tmp_path)):
        assert dataset.index.digest == own.index.digest
        assert dataset.num_pairs == own.num_pairs
        assert dataset.pairs_per_visit.tolist() == [len(pairs) for pairs in own.trained_pairs]
        assert [len(pairs) for pairs in dataset.trained_pairs[1:]] == [
            len(pairs) for pairs in own.trained_pairs[1:]
        ]
        added = dataset.trained_pairs[0][len(own.trained_pairs[0]) :]
        assert [p.input.tolist() for p in added] == [p.input.tolist() for p in fresh]
        assert [p.output.tolist() for p in added] == [p.output.tolist() for p in fresh]
        assert {key for pair in fresh for key in pair_keys(pair)} <= set(dataset.trained_on)
    for field in ("inputs", "labels", "rows"):
        before, after = (
            getattr(ExampleStream(d, 1).examples(0, 99), field)
            for d in (extended, Dataset.load(tmp_path))
        )
        assert np.array_equal(before, after)
    again = extended.with_fresh_pairs([fresh_pairs(1)] * len(small_tasks))
    assert again.num_pairs == own.num_pairs


def test_damaged_data_sets_are_refused(small_dataset, tmp_path):
    for name in ("tasks.npz", "views.npy", "puzzles.json"):
        small_dataset.save(tmp_path / "d")
        path = tmp_path / "d" / name
        content = path.read_bytes()
        for damaged in (content[:-1], content + b"x", content[:-9] + b"x" + content[-8:]):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=f"{name}: differs from what dataset.json says"):
                Dataset.load(tmp_path / "d")
        path.unlink()
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            Dataset.load(tmp_path / "d")
    path = tmp_path / "d" / "dataset.json"
    path.write_text(path.read_text().replace("10", "11"))
    with pytest.raises(InputError, match=r"dataset\.json: differs from what was written"):
        Dataset.load(tmp_path / "d")
    for content in ("{}", "3", '{"with_solutions": [true], "canvas_side": 10}'):
        path.write_text(content)
        with pytest.raises(InputError, match="not a data set of format 4"):
            Dataset.load(tmp_path / "d")


CHANGES = {
    "cells": [lambda a: a[:-1], lambda a: a + 9, lambda a: a.astype(np.int64)],
    "heights": [lambda a: a * 0, lambda a: a + 30, lambda a: a[1:], lambda a: a.astype(object)],
    "widths": [lambda a: a + 1],
    "num_demonstrations": [lambda a: -a, lambda a: a * 0, lambda a: a + 2**60, lambda a: a[1:]],
    "num_tests": [lambda a: a + 1, lambda a: a.astype(float)],
    "num_solutions": [lambda a: a + 5, lambda a: a - 1],
    "visit_sizes": [lambda a: -a, lambda a: a + 99, lambda a: a[1:], lambda a: a * 0],
    "with_solutions": [lambda a: a[1:], lambda a: a.astype(np.int64)],
}


@pytest.mark.parametrize("name", CHANGES)
def test_arrays_that_are_no_tasks_are_one_line(small_dataset, tmp_path, name):
    """Although every hash is right."""
    for change in CHANGES[name]:
        small_dataset.save(tmp_path)
        path = tmp_path / "tasks.npz"
        columns = dict(np.load(path))
        np.savez(path, **{**columns, name: change(columns[name])})
        rewrite_description(tmp_path / "dataset.json")
        with pytest.raises(InputError, match=r"tasks\.npz: ") as caught:
            Dataset.load(tmp_path)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [{"files": {}}, {"canvas_side": 31}, {"canvas_side": "10"}, {"fingerprint": 3}, {"files": []}],
)
def test_a_description_that_is_no_data_sets_is_one_line(small_dataset, tmp_path, changes):
    small_dataset.save(tmp_path)
    rewrite_description(tmp_path / "dataset.json", **changes)
    with pytest.raises(InputError, match=r"dataset\.json: \w+"):
        Dataset.load(tmp_path)


def test_a_data_set_built_from_something_else_is_refused(small_dataset, tmp_path):
    small_dataset.save(tmp_path, "these")
    assert Dataset.load(tmp_path, "these").num_pairs == small_dataset.num_pairs
    with pytest.raises(InputError, match="built from other tasks or settings"):
        Dataset.load(tmp_path, "those")


def test_a_row_map_of_other_tasks_is_refused(small_dataset):
    """Trap 7, within a data set."""
    others = small_dataset.tasks[::-1]
    with pytest.raises(InputError, match="puzzle index belongs to other tasks"):
        Dataset(others, small_dataset.index, small_dataset.with_solutions, 10)


def test_impossible_data_sets_are_refused(arc1, small_tasks):
    with pytest.raises(InputError, match="no task to train on"):
        make_dataset([])
    with pytest.raises(InputError, match=r"does not fit the 10x10 canvas"):
        make_dataset([t for t in arc1 if t.train[0].input.shape[0] > 10][:1])
    with pytest.raises(InputError, match="comes twice"):
        tasks_by_id([*small_tasks, small_tasks[0]])
