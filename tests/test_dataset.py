from collections import Counter

import numpy as np
import pytest
from commands import task_json
from conftest import make_dataset
from grid_oracle import View

from augment.dataset import Dataset, ExampleStream, view_features
from augment.errors import InputError
from augment.puzzles import PuzzleIndex, tasks_by_id
from augment.task import Task
from augment.tokens import FIRST_COLOR, PAD


def cells(tokens):
    """The colors on canvases (N, S), end markers and padding left out."""
    return [row[row >= FIRST_COLOR].tolist() for row in tokens]


def test_an_example_is_a_pair_under_a_view(small_dataset):
    examples = ExampleStream(small_dataset, 0).examples(0, small_dataset.num_pairs)
    seen = Counter()
    for inputs, labels, row, code in zip(
        cells(examples.inputs), cells(examples.labels), examples.rows, examples.codes, strict=True
    ):
        position = np.searchsorted(small_dataset.index.starts, row - 1, side="right") - 1
        assert small_dataset.index.codes[row - 1] == code
        view = View.from_code(code)
        pairs = small_dataset.trained_pairs[position]
        matching = [
            number
            for number, pair in enumerate(pairs)
            if view.apply(pair.input).ravel().tolist() == [cell - FIRST_COLOR for cell in inputs]
            and view.apply(pair.output).ravel().tolist() == [cell - FIRST_COLOR for cell in labels]
        ]
        assert len(matching) == 1
        seen[position, matching[0]] += 1
    # An epoch visits each task once, with all its pairs.
    assert len(seen) == small_dataset.num_pairs
    assert set(seen.values()) == {1}


def test_any_part_of_the_stream_is_the_same(small_dataset):
    whole = ExampleStream(small_dataset, 3).examples(0, 200)
    part = ExampleStream(small_dataset, 3).examples(57, 123)
    for name in ("inputs", "labels", "rows", "codes"):
        assert np.array_equal(getattr(whole, name)[57:123], getattr(part, name))
    other = ExampleStream(small_dataset, 4).examples(0, 200)
    assert not np.array_equal(whole.inputs, other.inputs)


def test_translation_is_fresh_and_spares_one_pair_of_a_visit(small_dataset):
    stream = ExampleStream(small_dataset, 0)
    size = small_dataset.num_pairs
    top_left = []
    for epoch in range(30):
        examples = stream.examples(epoch * size, (epoch + 1) * size)
        stays = (examples.inputs[:, 0] >= FIRST_COLOR) & (examples.labels[:, 0] >= FIRST_COLOR)
        visits = np.split(stays, np.flatnonzero(np.diff(examples.rows)) + 1)
        assert all(visit[0] for visit in visits)
        top_left.append(stays.mean())
    assert 0.2 < np.mean(top_left) < 0.9


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
    assert all(task.answers is None for task in loaded.tasks)


@pytest.mark.parametrize("hidden", [True, False])
def test_saved_and_loaded_tasks_are_the_same(arc1, tmp_path, hidden):
    tasks = tuple(task.without_answers() if hidden else task for task in arc1[::20])
    with_answers = tuple(not hidden and number % 2 == 0 for number in range(len(tasks)))
    index = PuzzleIndex.of(tasks, 3, 0, "task")
    Dataset(tasks, index, with_answers, 30).save(tmp_path)
    loaded = Dataset.load(tmp_path)
    assert [task.task_id for task in loaded.tasks] == [task.task_id for task in tasks]
    assert [task_json(task) for task in loaded.tasks] == [task_json(task) for task in tasks]
    assert loaded.with_answers == with_answers
    assert np.array_equal(loaded.taught, Dataset(tasks, index, with_answers, 30).taught)


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


def test_features_tell_dihedral_and_colors():
    view = View(6, (0, 3, 1, 2, 4, 5, 6, 7, 9, 8))
    assert view_features(np.array([view.code])).tolist() == [[6, 3, 1, 2, 4, 5, 6, 7, 9, 8]]


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
    for content in ("{}", "3", '{"with_answers": [true], "canvas_side": 10}'):
        path.write_text(content)
        with pytest.raises(InputError, match="not a data set of format 2"):
            Dataset.load(tmp_path / "d")


def test_a_data_set_built_from_something_else_is_refused(small_dataset, tmp_path):
    small_dataset.save(tmp_path, "these")
    assert Dataset.load(tmp_path, "these").num_pairs == small_dataset.num_pairs
    with pytest.raises(InputError, match="built from other tasks or settings"):
        Dataset.load(tmp_path, "those")


def test_damaged_row_maps_are_refused(small_dataset, tmp_path):
    index = small_dataset.index
    index.save(tmp_path)
    np.save(tmp_path / "views.npy", index.codes[:-1])
    with pytest.raises(InputError, match=r"views, but views\.npy holds"):
        PuzzleIndex.load(tmp_path)
    np.save(tmp_path / "views.npy", index.codes.astype(float))
    with pytest.raises(InputError, match="not a saved row map"):
        PuzzleIndex.load(tmp_path)
    for content in (b"nothing", b""):
        (tmp_path / "views.npy").write_bytes(content)
        with pytest.raises(InputError, match="not a saved row map"):
            PuzzleIndex.load(tmp_path)


def test_a_row_map_of_other_tasks_is_refused(small_dataset):
    """Trap 7, within a data set."""
    others = small_dataset.tasks[::-1]
    with pytest.raises(InputError, match="row map belongs to other tasks"):
        Dataset(others, small_dataset.index, small_dataset.with_answers, 10)


def test_impossible_data_sets_are_refused(arc1, small_tasks):
    with pytest.raises(InputError, match="no task to train on"):
        make_dataset([])
    with pytest.raises(InputError, match=r"does not fit the 10x10 canvas"):
        make_dataset([t for t in arc1 if t.train[0].input.shape[0] > 10][:1])
    with pytest.raises(InputError, match="comes twice"):
        tasks_by_id([*small_tasks, small_tasks[0]])


def test_labels_hold_padding_where_nothing_is_learned(small_dataset):
    labels = ExampleStream(small_dataset, 0).examples(0, 50).labels
    assert (labels == PAD).any()
    assert labels.max() < 12
