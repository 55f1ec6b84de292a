"""Boxes hold what stands on a canvas, and those inferred for tests hold the true output."""

import numpy as np
from grid_oracle import View, encode_grid
from passes import box_cells, examples_of

from augment.boxes import full_boxes, infer_test_boxes, reaches_border
from augment.tokens import PAD
from augment.view import NUM_VIEWS
from pipeline.sources import load_source


def test_boxes_hold_all_that_is_on_the_canvas(small_dataset):
    examples = examples_of(small_dataset, 200, 0)
    sides = set()
    for inputs, labels, box in zip(examples.inputs, examples.labels, examples.boxes, strict=True):
        outside = np.ones(100, dtype=bool)
        outside[box_cells(box, 10)] = False
        assert (inputs[outside] == PAD).all()
        assert (labels[outside] == PAD).all()
        # The last row or column is needed: markers or, at the canvas' end, the grid itself.
        for last in (box_cells((*box[:2], 1, box[3]), 10), box_cells((*box[:2], box[2], 1), 10)):
            assert (inputs[last] != PAD).any() or (labels[last] != PAD).any()
        sides.add(tuple(box[2:]))
    assert len(sides) > 5


def test_inferred_boxes_come_from_what_is_visible_and_hold_the_answer():
    """On every task of both ARC-AGI sets; solutions play no part."""
    shares = {}
    for source in ("arc1/evaluation", "arc2/evaluation"):
        tasks = load_source(source)
        keys = [(n, t) for n, task in enumerate(tasks) for t in range(len(task.test_inputs))]
        numbers, tests = (np.array(column) for column in zip(*keys, strict=True))
        codes = np.random.default_rng(0).integers(NUM_VIEWS, size=len(keys)).astype(np.uint32)
        boxes = infer_test_boxes(tasks, numbers, tests, codes, 30)
        hidden = [task.without_solutions() for task in tasks]
        assert np.array_equal(boxes, infer_test_boxes(hidden, numbers, tests, codes, 30))
        for (number, test), code, box in zip(keys, codes, boxes, strict=True):
            for grid in (tasks[number].test_inputs[test], tasks[number].solutions[test]):
                shown = View.from_code(code).apply(grid)
                assert (np.minimum(np.array(shown.shape) + 1, 30) <= box[2:]).all()
        shares[source] = (boxes[:, 2:] == 30).all(axis=1).mean()
    assert shares["arc1/evaluation"] < 0.3
    assert shares["arc2/evaluation"] < 0.5


def test_a_grid_that_reaches_the_border_of_its_box_is_seen():
    canvases = np.stack([encode_grid(np.ones(size, np.uint8), 10) for size in ((3, 4), (10, 2))])
    boxes = np.array([[0, 0, 4, 5], [0, 0, 10, 3]])
    assert reaches_border(canvases, boxes).tolist() == [False, False]
    boxes[:, 3] -= 1
    assert reaches_border(canvases, boxes).tolist() == [True, True]
    assert not reaches_border(canvases, full_boxes(2, 10)).any()
