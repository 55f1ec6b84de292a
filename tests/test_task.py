"""A task is known by its demonstrations alone."""

import numpy as np


def test_digest_is_of_the_demonstrations_alone(arc1):
    task = arc1[0]
    assert task.demonstrations_digest() == task.without_answers().demonstrations_digest()
    assert len({t.demonstrations_digest() for t in arc1}) == len(arc1)
    assert task.visible_grids[-1] is task.test_inputs[-1]
    assert not any(np.shares_memory(grid, task.answers[0]) for grid in task.visible_grids)
