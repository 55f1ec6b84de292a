"""Puzzle rows: each belongs to the name and the demonstrations of a task, or to a view of it."""

import json

import numpy as np
import pytest
from conftest import make_dataset

from augment.errors import InputError
from augment.examples import view_features
from augment.puzzle_index import PuzzleIndex
from augment.task import Task


def test_rows_per_task_are_shared_by_its_views(small_tasks):
    index = make_dataset(small_tasks, "task").index
    rows, codes = index.rows(np.array([0, 0, 2]), np.array([0, 1, 1]))
    assert rows.tolist() == [1, 1, 3]
    assert codes[0] == 0
    assert codes[1] != codes[0]
    assert index.num_rows == 1 + len(small_tasks)


def test_a_row_belongs_to_a_name_and_its_demonstrations(small_tasks):
    index = make_dataset(small_tasks).index
    task, other = small_tasks[:2]
    renamed = Task("another", task.train, task.test_inputs, None)
    swapped = Task(task.task_id, other.train, task.test_inputs, None)
    assert index.find(task) == 0
    assert index.find(renamed) is None
    assert index.find(swapped) is None


@pytest.mark.parametrize("color_maps", ["all", "inputs", "varying", "none"])
def test_views_permute_the_colors_of_the_setting(arc1, color_maps):
    by_id = {task.task_id: task for task in arc1}
    task = by_id["00d62c1b"]  # outputs fill with 4 what inputs enclose with 3
    codes = PuzzleIndex.of([task], 200, 0, "task", color_maps).codes
    maps = dict.fromkeys(map(tuple, view_features(codes)[:, 1:].tolist()))
    images = [{colors[color - 1] for colors in maps} for color in range(1, 10)]
    kept = {color for color, image in enumerate(images, 1) if image == {color}}
    expected = {
        "all": (set(), 201),
        "inputs": ({4}, 8 * 8),
        "varying": (set(range(1, 10)), 8),  # 3 is in every input, and all others are in none
        "none": (set(range(1, 10)), 8),
    }
    assert (kept, len(codes)) == expected[color_maps]


def test_damaged_row_maps_are_refused(small_dataset, tmp_path):
    index = small_dataset.index
    index.save(tmp_path)
    np.save(tmp_path / "views.npy", index.codes[:-1])
    with pytest.raises(InputError, match=r"views, but views\.npy holds"):
        PuzzleIndex.load(tmp_path)
    for codes in (index.codes.astype(float), index.codes + 1, index.codes[:, None]):
        np.save(tmp_path / "views.npy", codes)
        with pytest.raises(InputError, match=r"views\.npy: not the "):
            PuzzleIndex.load(tmp_path)
    for content in (b"nothing", b""):
        (tmp_path / "views.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"views\.npy: not the array that was written"):
            PuzzleIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_ids", None),
        ("task_ids", [1] * 12),
        ("task_ids", ["a"]),
        ("task_digests", "abcdefghijkl"),
        ("num_views", [2**62] * 12),
        ("num_views", [6.0] * 12),
        ("num_views", [0] * 11 + [72]),
        ("num_views", [-6] + [6] * 10 + [18]),
        ("rows_per", "day"),
        ("rows_per", ["view"]),
    ],
)
def test_what_no_index_says_of_itself_is_one_line(small_dataset, tmp_path, name, value):
    small_dataset.index.save(tmp_path)
    path = tmp_path / "puzzles.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(InputError, match=r"puzzles\.json: ") as caught:
        PuzzleIndex.load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
