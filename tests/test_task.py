"""A task is known by its demonstrations alone."""

import numpy as np
import pytest


def test_digest_is_of_the_demonstrations_alone(arc1):
    task = arc1[0]
    assert task.demonstrations_digest() == task.without_solutions().demonstrations_digest()
    assert len({t.demonstrations_digest() for t in arc1}) == len(arc1)
    assert task.visible_grids[-1] is task.test_inputs[-1]
    assert not any(np.shares_memory(grid, task.solutions[0]) for grid in task.visible_grids)


def test_further_tests_stand_after_the_first_ones(arc1):
    """The task is known as before."""
    task = arc1[0]
    longer = task.with_tests(arc1[1].train)
    assert longer.test_pairs[0].output is task.solutions[0]
    assert [pair.input for pair in longer.test_pairs[1:]] == [p.input for p in arc1[1].train]
    assert [pair.output for pair in longer.test_pairs[1:]] == [p.output for p in arc1[1].train]
    assert longer.demonstrations_digest() == task.demonstrations_digest()
    with pytest.raises(AssertionError):
        task.without_solutions().with_tests(arc1[1].train)


def test_what_is_hidden_is_none_and_counts_nowhere(arc1):
    task = next(
        task for task in arc1 if task.longest_side(with_solutions=True) > task.longest_side()
    )
    hidden = task.without_solutions()
    assert hidden.solutions is None
    assert hidden.test_pairs == ()
    assert len(task.test_pairs) == len(task.test_inputs)
    assert hidden.longest_side(with_solutions=True) == hidden.longest_side() == task.longest_side()
