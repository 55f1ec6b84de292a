"""Pictures of tasks."""

import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace

import numpy as np

from augment.drawing import COLORS, draw_task
from augment.task import Pair, Task

NS = "{http://www.w3.org/2000/svg}"


def read(svg):
    """The labels, and for each grid how many cells of each color are drawn, in order."""
    root = ET.fromstring(svg)
    labels = [text.text for text in root.iter(f"{NS}text")]
    grids = []
    for group in root.iter(f"{NS}g"):
        cells = Counter()
        for rect in group.iter(f"{NS}rect"):
            cells[rect.get("fill")] += int(rect.get("width")) * int(rect.get("height"))
        grids.append(cells)
    return labels, grids


def cells_of(grid):
    return Counter(COLORS[color] for color in grid.ravel())


def test_a_picture_shows_every_cell_of_the_task_and_its_attempts(arc1):
    for task in arc1[:20]:
        attempts = [(answer, np.zeros((1, 1), np.uint8)) for answer in task.answers]
        labels, grids = read(draw_task(task, attempts))
        expected = [grid for pair in task.train for grid in (pair.input, pair.output)]
        for test, answer in enumerate(task.answers):
            expected += [task.test_inputs[test], *attempts[test], answer]
        assert grids == list(map(cells_of, expected))
        assert labels.count("attempt 1") == labels.count("answer") == len(task.answers)
        assert labels[0] == task.task_id


def test_hidden_answers_are_not_drawn(arc1):
    labels, grids = read(draw_task(arc1[0].without_answers()))
    assert "answer" not in labels
    assert len(grids) == len(labels) - 1 == 2 * len(arc1[0].train) + len(arc1[0].test_inputs)


def test_task_ids_are_text_whatever_they_hold():
    grid = np.array([[1, 2], [3, 4]], np.uint8)
    task = Task("</title><script>alert(1)</script>&", (Pair(grid, grid),), (grid,), None)
    labels, _ = read(draw_task(task))
    assert labels[0] == task.task_id
    assert "<script>" not in draw_task(replace(task, task_id="<script>"))
