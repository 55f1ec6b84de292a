"""Pictures of tasks (`drawing`), and those that notebooks show of predictions (`prediction`)."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np

from augment.drawing import COLORS, draw_grid
from augment.prediction import Prediction
from augment.task import Pair, Task
from submission.vote import Candidate

NS = "{http://www.w3.org/2000/svg}"


def read(svg):
    """The labels, and the grids that are drawn, in order."""
    root = ET.fromstring(svg)
    labels = [text.text for text in root.iter(f"{NS}text")]
    grids = []
    for group in root.iter(f"{NS}g"):
        cells = {}
        for rect in group.iter(f"{NS}rect"):
            x, y, width, height = (int(rect.get(name)) for name in ("x", "y", "width", "height"))
            assert height == 1
            for column in range(x, x + width):
                assert (y, column) not in cells
                cells[y, column] = COLORS.index(rect.get("fill"))
        rows, columns = (1 + max(place) for place in zip(*cells, strict=True))
        grids.append([[cells[y, x] for x in range(columns)] for y in range(rows)])
    return labels, grids


def test_a_picture_shows_every_cell_of_the_task_and_its_attempts(arc1):
    for task in arc1[:20]:
        attempts = [(solution, np.zeros((1, 1), np.uint8)) for solution in task.solutions]
        labels, grids = read(task.draw(attempts).svg)
        expected = [grid for pair in task.train for grid in (pair.input, pair.output)]
        for test, solution in enumerate(task.solutions):
            expected += [task.test_inputs[test], *attempts[test], solution]
        assert grids == [grid.tolist() for grid in expected]
        assert (
            labels.count("attempt 1, right")
            == labels.count("attempt 2, wrong")
            == labels.count("solution")
            == len(task.solutions)
        )
        assert labels[0] == task.task_id


def test_hidden_solutions_are_not_drawn(arc1):
    labels, grids = read(arc1[0].without_solutions().draw().svg)
    assert "solution" not in labels
    assert len(grids) == len(labels) - 1 == 2 * len(arc1[0].train) + len(arc1[0].test_inputs)


def test_task_ids_are_text_whatever_they_hold():
    grid = np.array([[1, 2], [3, 4]], np.uint8)
    task = Task("</title><script>alert(1)</script>&", (Pair(grid, grid),), (grid,), None)
    labels, _ = read(task.draw().svg)
    assert labels[0] == task.task_id
    assert "<script>" not in replace(task, task_id="<script>").draw().svg


def test_wrong_cells_are_crossed_out_where_sizes_are_the_same(arc1):
    task = arc1[0]
    (solution,) = task.solutions
    wrong = solution.copy()
    wrong[0, :3] = 9 - wrong[0, :3]
    picture = ET.fromstring(task.draw([(wrong, np.zeros((1, 1), np.uint8))]).svg)
    crosses = [path for path in picture.iter(f"{NS}path") if "l.6" in path.get("d")]
    assert len(crosses) == 3


def test_notebooks_show_tasks_grids_predictions_and_candidates_as_pictures(arc1):
    """By the method that notebooks look for."""
    grid = arc1[0].solutions[0]
    pictures = {
        "task": arc1[0],
        "grid": draw_grid(grid),
        "prediction": Prediction("a<b", 1, grid, 0.25, 3),
        "empty": Prediction("a<b", 1, None, 0.25, 3),
        "candidate": Candidate(grid, 5, 0.5),
    }
    drawn = {name: read(shown._repr_svg_()) for name, shown in pictures.items()}
    assert drawn["task"] == read(arc1[0].draw().svg)
    assert drawn["grid"][1] == [grid.tolist()]
    assert drawn["prediction"] == (["a<b, test 1", "view 3, q 0.25"], [grid.tolist()])
    assert drawn["empty"] == (["a<b, test 1", "view 3, q 0.25, no grid"], [])
    assert drawn["candidate"][0][1] == "5 votes, q 0.50"
