"""Examples are pairs under views, the same in every part of the stream."""

from collections import Counter

import numpy as np
import pytest
from conftest import fresh_pairs, solved_dataset
from grid_oracle import View

from augment.examples import ExampleStream, view_features
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


@pytest.mark.parametrize("says_sizes", [False, True])
def test_without_fresh_pairs_the_plan_is_what_it_always_was(small_tasks, says_sizes):
    """Runs that go on drew these pairs, views and shifts, in this order."""
    dataset = solved_dataset(small_tasks)
    sizes = tuple(len(pairs) for pairs in dataset.trained_pairs)
    stream = ExampleStream(solved_dataset(small_tasks, sizes if says_sizes else None), 7)
    assert sum(sizes) == dataset.num_pairs
    for epoch in range(3):
        rng = np.random.default_rng([7, 0, epoch])
        task_of_pair = np.repeat(np.arange(len(sizes)), sizes)
        order_of_task = rng.permutation(len(sizes))
        view_of_task = rng.integers(dataset.index.num_views)
        shifts = rng.random((sum(sizes), 2))
        pairs = np.lexsort((rng.random(sum(sizes)), order_of_task[task_of_pair]))
        tasks = task_of_pair[pairs]
        shifts[np.diff(tasks, prepend=-1) != 0] = 0.0
        drawn = stream._plan(epoch * sum(sizes), (epoch + 1) * sum(sizes))
        for column, expected in zip(drawn, (pairs, view_of_task[tasks], shifts), strict=True):
            assert np.array_equal(column, expected)


def test_a_visit_draws_as_many_pairs_as_without_fresh_ones(small_tasks):
    """In one piece, none twice, and over many epochs all alike."""
    own, added, epochs = solved_dataset(small_tasks), 30, 600
    dataset = own.with_fresh_pairs([fresh_pairs(added), *[()] * (len(small_tasks) - 1)])
    num_first = len(own.trained_pairs[0])
    stream, counts = ExampleStream(dataset, 0), np.zeros(num_first + added)
    for epoch in range(epochs):
        pairs, views, shifts = stream._plan(epoch * own.num_pairs, (epoch + 1) * own.num_pairs)
        tasks = dataset.task_of_pair[pairs]
        opens_visit = np.diff(tasks, prepend=-1) != 0
        assert opens_visit.sum() == len(small_tasks)
        assert np.array_equal(np.bincount(tasks), own.pairs_per_visit)
        assert len(set(pairs.tolist())) == own.num_pairs
        assert not shifts[opens_visit].any()
        assert len(set(zip(tasks.tolist(), views.tolist(), strict=True))) == len(small_tasks)
        counts += np.bincount(pairs[tasks == 0], minlength=len(counts))
    mean = epochs * num_first / len(counts)
    assert counts.sum() == epochs * num_first
    assert np.abs(counts - mean).max() < 5 * mean**0.5


def test_features_tell_dihedral_and_colors():
    view = View(6, (0, 3, 1, 2, 4, 5, 6, 7, 9, 8))
    assert view_features(np.array([view.code])).tolist() == [[6, 3, 1, 2, 4, 5, 6, 7, 9, 8]]


def test_labels_hold_padding_where_nothing_is_learned(small_dataset):
    labels = ExampleStream(small_dataset, 0).examples(0, 50).labels
    assert (labels == PAD).any()
    assert labels.max() < 12


def test_grids_are_shown_wherever_they_fit(small_dataset):
    boxes = ExampleStream(small_dataset, 0).examples(0, 2000).boxes
    small = boxes[(boxes[:, 2:] == 4).all(1)]  # 3x3 with its end markers fits at 0..6
    assert set(small[:, 0]) == set(small[:, 1]) == set(range(7))
