"""The rule of what to expect, and `budget`, which spends compute by it."""

import math

import numpy as np
import orjson
import pytest

from pipeline import budget
from pipeline.recipes import load_recipe
from pipeline.scaling import Rule, visible_cells
from pipeline.settings import change_settings
from solver.cards import choose_card

RULE = Rule(np.array([[-1.0, 0.5, 2.0, 0.3, 0.1]] * 3), np.array([[3.0, 1.5, -0.5]] * 3), 1e14)
PLENTY = 1e17


@pytest.fixture(scope="module")
def choices():
    """All ways to spend 1e17 FLOP on an H100."""
    settings = load_recipe("arc1-fast", ["data.trained=arc1/training", "data.left_out="])
    return settings, list(budget.list_choices(settings, choose_card("h100"), RULE, flop=PLENTY))


def test_the_kept_rule_is_sensible():
    """More training, wider models and smaller grids: never worse."""
    rule = Rule.read()
    cells = np.array([100.0, 200.0])
    base = rule.solved(rule.exact(128, 100, 64), cells)
    assert np.median(rule.solved(rule.exact(128, 1000, 64), cells)) > np.median(base)
    assert np.median(rule.solved(rule.exact(256, 100, 64), cells)) >= np.median(base)
    assert np.median(rule.solved(rule.exact(128, 100, 64), 4 * cells)) < np.median(base)
    assert ((base > 0) & (base < 1)).all()


def test_the_rule_survives_being_written(tmp_path):
    path = tmp_path / "rule.json"
    path.write_bytes(orjson.dumps(RULE.as_json()))
    again = Rule.read(path)
    assert np.array_equal(again.exact_R5, RULE.exact_R5)
    assert np.array_equal(again.solved_R3, RULE.solved_R3)


def test_the_first_line_by_hand():
    expected = math.exp(-1.0) * 2**-0.5 + math.exp(2.0) * (100 * 2**-0.1) ** -0.3
    assert -np.log(RULE.exact(256, 100, 128)) == pytest.approx(expected)


def test_no_solution_is_looked_at(arc1):
    task = arc1[0]
    assert visible_cells(task) == visible_cells(task.without_solutions())


def test_what_is_chosen_costs_what_may_be_spent(choices):
    _, found = choices
    assert {choice.side for choice in found} >= {10, 20, 30}
    for choice in found:
        assert 0.99 * PLENTY < choice.flop <= PLENTY
        assert choice.num_fitting <= 400
    wide = [c for c in found if (c.side, c.batch) == (20, 64)]
    presentations = [choice.presentations for choice in sorted(wide, key=lambda c: c.dim)]
    assert presentations == sorted(presentations, reverse=True)


def test_the_changes_are_settings_of_the_recipe(choices):
    settings, found = choices
    for choice in budget.best_of_each_width(iter(found)):
        changed = change_settings(settings, choice.changes)
        assert (changed.model.dim, changed.model.canvas_side) == (choice.dim, choice.side)
        assert changed.train.num_steps == choice.num_steps


def test_time_is_a_budget_too(choices):
    settings, _ = choices
    card = choose_card("h100x8", 4)
    found = list(budget.list_choices(settings, card, RULE, seconds=3600))
    assert found
    for choice in found:
        assert choice.batch % 32 == 0
        assert choice.num_steps * choice.time.seconds == pytest.approx(3600, rel=0.01)
        assert 0 < choice.time.communication < choice.time.seconds
